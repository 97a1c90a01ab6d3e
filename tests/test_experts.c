/* Routing of a mixture of experts against its definition; whole mixtures are compared with transformers in test_forward.c. */
#include <math.h>
#include <string.h>

#include "model/experts.h"
#include "tests/support/testing.h"

static bool near(float a, double b)
{
    return fabs(a - b) < 1e-6;
}

/* softmax of 0, ln 2, ln 4, ln 1 = 1, 2, 4, 1 eighths */
static void test_route(void)
{
    const float logits[4] = {0, logf(2), logf(4), 0};
    float x[4];

    memcpy(x, logits, sizeof x);
    experts_route(x, 4, 2, false);
    CU_ASSERT_TRUE(x[0] == 0 && near(x[1], 0.25) && near(x[2], 0.5) && x[3] == 0);
    memcpy(x, logits, sizeof x);
    experts_route(x, 4, 2, true);
    CU_ASSERT_TRUE(x[0] == 0 && near(x[1], 1 / 3.0) && near(x[2], 2 / 3.0) && x[3] == 0);
    memcpy(x, logits, sizeof x);
    experts_route(x, 4, 3, false); /* of equal ones the first */
    CU_ASSERT_TRUE(near(x[0], 0.125) && near(x[1], 0.25) && near(x[2], 0.5) && x[3] == 0);
    memcpy(x, logits, sizeof x);
    experts_route(x, 4, 4, true);
    CU_ASSERT_TRUE(near(x[0], 0.125) && near(x[3], 0.125));
}

/* Large logits overflow nothing; what is not a number goes on as such, for who checks activations. */
static void test_route_extremes(void)
{
    float large[3] = {1e30f, -1e30f, 0}, broken[3] = {0, NAN, 1};

    experts_route(large, 3, 1, true);
    CU_ASSERT_TRUE(large[0] == 1 && large[1] == 0 && large[2] == 0);
    experts_route(broken, 3, 1, true);
    CU_ASSERT_TRUE(isnan(broken[0]) || isnan(broken[1]) || isnan(broken[2]));
}

static void test_gather(void)
{
    const float x[3][2] = {{1, 2}, {3, 4}, {5, 6}}, weights[3][2] = {{1, 0}, {0.5f, 0.5f}, {0, 1}};
    float out[3][2];

    CU_ASSERT_EQUAL(experts_gather(out[0], x[0], 3, 2, weights[0], 2, 0), 2);
    CU_ASSERT_TRUE(out[0][0] == 1 && out[1][1] == 4);
    CU_ASSERT_EQUAL(experts_gather(out[0], x[0], 3, 2, weights[0], 2, 1), 2);
    CU_ASSERT_TRUE(out[0][0] == 3 && out[1][1] == 6);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"route", test_route},
        {"route extremes", test_route_extremes},
        {"gather", test_gather},
    };

    return TESTING_RUN("experts", cases);
}
