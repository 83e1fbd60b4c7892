"""Our environments in other suites; each file needs the package that it is named after."""
