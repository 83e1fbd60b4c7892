"""The learner: training rows in, optimiser steps out. It knows no algorithm."""
