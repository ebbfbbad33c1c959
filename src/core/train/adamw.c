#include "core/train/adamw.h"

#include <math.h>

#ifdef SERM_REAL_DOUBLE
#define REAL_SQRT sqrt
#else
#define REAL_SQRT sqrtf
#endif

bool
serm_adamw_init(SermAdamW *adamw, size_t count, double weight_decay, SermArena *arena)
{
	*adamw = (SermAdamW){.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
	adamw->weight_decay = weight_decay;
	adamw->count = count;
	adamw->mean = serm_arena_array(arena, count, sizeof(SermReal));
	adamw->square = serm_arena_array(arena, count, sizeof(SermReal));
	return adamw->mean != NULL && adamw->square != NULL;
}

void
serm_adamw_step(SermAdamW *adamw, double learning_rate, const SermReal *gradient, SermReal *parameters)
{
	double t = (double) ++adamw->step;
	SermReal beta1 = (SermReal) adamw->beta1, beta2 = (SermReal) adamw->beta2;
	/* m / (1 - beta1^t) over sqrt(v / (1 - beta2^t)) + epsilon, with the divisions taken out of the loop. */
	double root = sqrt(1 - pow(adamw->beta2, t));
	SermReal rate = (SermReal) (learning_rate * root / (1 - pow(adamw->beta1, t)));
	SermReal epsilon = (SermReal) (adamw->epsilon * root);
	SermReal keep = (SermReal) (1 - learning_rate * adamw->weight_decay);
	SermReal *mean = adamw->mean, *square = adamw->square;

	for (size_t i = 0; i < adamw->count; i++) {
		SermReal g = gradient[i];

		mean[i] = beta1 * mean[i] + (1 - beta1) * g;
		square[i] = beta2 * square[i] + (1 - beta2) * g * g;
		parameters[i] = keep * parameters[i] - rate * mean[i] / (REAL_SQRT(square[i]) + epsilon);
	}
}

double
serm_adamw_schedule(uint64_t step, double progress)
{
	double warm = step + 1 < SERM_WARMUP_STEPS ? (double) (step + 1) / SERM_WARMUP_STEPS : 1;

	return warm * (1 - (1 - SERM_FINAL_RATE) * progress);
}
