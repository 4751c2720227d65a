import numpy as np

MEANS = np.zeros(17)
SCALES = np.ones(17)
WEIGHTS = np.zeros(17)
BIAS = -1.0
THRESHOLD = 0.0
