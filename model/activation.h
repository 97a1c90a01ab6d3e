/* The functions a feed-forward block bends its gate with. */
#ifndef NIBBLE_MODEL_ACTIVATION_H
#define NIBBLE_MODEL_ACTIVATION_H

enum activation {
    ACTIVATION_SILU, /* x / (1 + e^-x) */
    ACTIVATION_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): Hendrycks and Gimpel 2016, section 2 */
    ACTIVATION_GELU, /* 0.5 x (1 + erf(x / sqrt(2))) */
    ACTIVATION_COUNT
};

#endif
