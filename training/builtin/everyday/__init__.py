"""The base bundle `everyday`: ImageNet's appearance features beside motion, for heads taught from few clips."""
