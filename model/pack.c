// pack.c: see pack.h.
#include "model/pack.h"
#include "model/packed.h"
#include "model/rounding.h"

void pack_weights(Model *m) {
    if (m->packed_fresh) return;
    round_weights(m, false);
    packed_make(m);
    for (size_t i = 0; i < m->pack_count; i++) {
        const Linear *l = &m->packs[i];
        if (l->integer < l->N)
            linear_pack(m->packed + l->packed, m->values + l->weight + l->integer * l->K, l->count, l->N - l->integer,
                        l->K);
    }
    m->packed_fresh = true, m->absorbed_fresh = false;
    if (!m->c.quant_act || m->training) return;
    pack_absorbed_weights(m);
    packed_release(m);
}

// Per head, W_UK [N,R] and W_UV [Dv,R] of kv_b.
static void pack_absorbed(Model *m, const Layer *layer) {
    size_t N = m->c.nope_dim, R = layer->mla.kv_b.K;
#pragma omp parallel for
    for (size_t h = 0; h < layer->H; h++) {
        const real *w = m->values + layer->mla.kv_b.weight + h * (N + layer->Dv) * R;
        pack(m->packed + layer->mla.absorbed_k + h * packed_size(N, R), w, R, 1, N, R);
        pack(m->packed + layer->mla.absorbed_v + h * packed_size(R, layer->Dv), w + N * R, 1, R, R, layer->Dv);
    }
}
void pack_absorbed_weights(Model *m) {
    for (size_t l = 0; l < m->c.layers && !m->absorbed_fresh; l++)
        if (m->layers[l].attn == ATTN_mla) pack_absorbed(m, &m->layers[l]);
    m->absorbed_fresh = true;
}
