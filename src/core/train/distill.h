/*
 * Distillation (Hinton et al. 2015): a student learns from what a teacher says
 * of pairs, judged or not, beside what the judgments say. Losses that need a
 * teacher see all examples, the others those that are judged.
 */
#ifndef SERM_CORE_TRAIN_DISTILL_H
#define SERM_CORE_TRAIN_DISTILL_H

#include "core/train/loss.h"

/*
 * The distribution of a teacher over its own grades [from] as one over the student's [to]; both scales go
 * from worst to best, so grade y of the teacher lies at y (to - 1) / (from - 1), between two grades that
 * share its mass by how near they are. That keeps the expected grade. A teacher of fewer grades than the
 * student would leave holes: then only its expected grade is taken over, as a soft label between its two
 * neighbours. Equal numbers of grades: a copy.
 */
extern void serm_distill_grades(const float *probability, uint32_t from, float *converted, uint32_t to);

/*
 * Losses of a teacher get the share `alpha` of the objective, the others the rest; without any judged
 * example, or with losses of a teacher only, these get all. Losses that are left with nothing are taken out.
 * INVALID: none of them learns from a teacher.
 */
extern SermStatus serm_distill_mix(
    SermLossTerm *terms, uint32_t *term_count, double alpha, bool any_judged, SermError *error);

#endif
