#include "core/train/adamw.h"
#include "unit.h"

/* Two updates of one parameter, worked by hand from the paper's formulas. */
static void
test_steps(SermArena *arena)
{
	SermAdamW adamw;
	SermReal parameter[2] = {1, -2}, gradient[2] = {0.5, 0};
	double rate = 0.1, decay = 0.01, expected = 1, m = 0, v = 0;

	CHECK(serm_adamw_init(&adamw, 2, decay, arena), "initialised");
	for (int t = 1; t <= 2; t++) {
		double g = t == 1 ? 0.5 : -0.25;

		gradient[0] = (SermReal) g;
		serm_adamw_step(&adamw, rate, gradient, parameter);
		m = 0.9 * m + 0.1 * g;
		v = 0.999 * v + 0.001 * g * g;
		expected -=
		    rate * decay * expected + rate * (m / (1 - pow(0.9, t))) / (sqrt(v / (1 - pow(0.999, t))) + 1e-8);
		CHECK_NEAR(parameter[0], expected, 2e-6, "update %d as in the paper", t);
	}
	CHECK_NEAR(parameter[1], -2 * 0.999 * 0.999, 1e-6, "without gradient only the decay acts");
	CHECK(adamw.step == 2, "steps are counted");
}

static void
test_first_step_size(SermArena *arena)
{
	SermAdamW adamw;
	SermReal parameter[3] = {0, 0, 0}, gradient[3] = {1e-3f, -50, 0};

	serm_adamw_init(&adamw, 3, 0, arena);
	serm_adamw_step(&adamw, 0.002, gradient, parameter);
	CHECK_NEAR(parameter[0], -0.002, 1e-7, "the first step has the size of the rate, whatever the gradient");
	CHECK_NEAR(parameter[1], 0.002, 1e-7, "in both directions");
	CHECK(parameter[2] == 0, "no gradient, no step");
}

static void
test_quadratic(SermArena *arena)
{
	SermAdamW adamw;
	SermReal x[2] = {3, -4}, gradient[2];

	serm_adamw_init(&adamw, 2, 0, arena);
	for (int step = 0; step < 2000; step++) {
		gradient[0] = 2 * (x[0] - 1);
		gradient[1] = 20 * (x[1] - 2);
		serm_adamw_step(&adamw, 0.05 * serm_adamw_schedule(step, step / 2000.0), gradient, x);
	}
	CHECK_NEAR(x[0], 1, 1e-2, "finds the minimum of a quadratic");
	CHECK_NEAR(x[1], 2, 1e-2, "in both coordinates");
}

static void
test_schedule(void)
{
	CHECK_NEAR(serm_adamw_schedule(0, 0), 1.0 / 20, 1e-12, "warm-up starts at a twentieth");
	CHECK_NEAR(serm_adamw_schedule(9, 0), 0.5, 1e-12, "and rises linearly");
	CHECK_NEAR(serm_adamw_schedule(19, 0), 1, 1e-12, "to the whole rate");
	CHECK_NEAR(serm_adamw_schedule(1000, 0.5), 0.525, 1e-12, "then it falls");
	CHECK_NEAR(serm_adamw_schedule(1000, 1), 0.05, 1e-12, "to a twentieth");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_steps(&arena);
	test_first_step_size(&arena);
	test_quadratic(&arena);
	test_schedule();
	serm_arena_free(&arena);
	DONE();
}
