"""Our scenarios, and the environments made of them."""

WEBQA = "ovd/WebQA-v0"
MATH = "ovd/Math-v0"
