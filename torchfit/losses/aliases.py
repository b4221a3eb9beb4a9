"""The short names of the commonest loss functions, in both spellings."""

from torchfit import functional

mse = MSE = functional.mean_squared_error
mae = MAE = functional.mean_absolute_error
mape = MAPE = functional.mean_absolute_percentage_error
msle = MSLE = functional.mean_squared_logarithmic_error
bce = BCE = functional.binary_crossentropy
kld = KLD = functional.kl_divergence
