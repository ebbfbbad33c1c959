/*
 * How the weights of a model lie in its cache file: by the precision that the
 * model asks for, as far as this processor has it. One file per layout; what a
 * session maps is always what it asked for.
 */
#include "pg/serm.h"

#include "core/model/cross_encoder_stored.h"
#include "pg/store/internal.h"

static const char *const names[SERM_LAYOUT_COUNT] = {"f32", "bf16", "int8", "openblas", "onednn"};

StaticAssertDecl((int) SERM_LAYOUT_F32 == (int) SERM_PRECISION_F32 &&
                     (int) SERM_LAYOUT_BF16 == (int) SERM_PRECISION_BF16 &&
                     (int) SERM_LAYOUT_INT8 == (int) SERM_PRECISION_INT8,
    "the first layouts are the precisions");

const char *
serm_layout_name(SermLayout layout)
{
	return names[layout];
}

SermLayout
serm_layout_of(const SermModelRow *row)
{
	SermPrecision precision = SERM_PRECISION_F32;

	if (strcmp(row->kind, SERM_KIND_CROSS_ENCODER) != 0)
		return SERM_LAYOUT_F32;
	(void) serm_precision_parse(row->options.precision, &precision);
	precision = serm_precision_here(precision);
	return precision == SERM_PRECISION_F32 ? serm_blas_layout() : (SermLayout) precision;
}

void
serm_layout_settings(SermLayout layout, SermModelSettings *settings)
{
	settings->precision = layout <= SERM_LAYOUT_INT8 ? (SermPrecision) layout : SERM_PRECISION_F32;
	settings->gemm = serm_blas_provider(layout);
}
