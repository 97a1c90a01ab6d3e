#include "tensor/block_fit.h"
