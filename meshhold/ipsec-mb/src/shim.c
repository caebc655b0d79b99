// The calls of libipsec-mb that MeshHold makes. In C, so that the library's own header lays out its structures, which
// differ between its versions; src/sys.rs declares these functions to Rust.

#include <intel-ipsec-mb.h>
#include <stdbool.h>

#define NONCE 12
#define TAG 16

// GCM_KEY is the room that src/sys.rs has for one.
_Static_assert(sizeof(struct gcm_key_data) <= GCM_KEY, "an expanded AES-256-GCM key needs more room in build.rs");

// NULL without memory, and on a processor that lacks what the library is fast by: AVX-512 with IFMA, VAES, VPCLMULQDQ.
IMB_MGR *meshhold_mb_new(void) {
    IMB_MGR *mgr = alloc_mb_mgr(0);
    if (!mgr)
        return NULL;
    if ((mgr->features & IMB_CPUFLAGS_AVX512_T2) == IMB_CPUFLAGS_AVX512_T2) {
        init_mb_mgr_avx512(mgr);
        // Set where the library's own self-test fails, too.
        if (!imb_get_errno(mgr))
            return mgr;
    }
    free_mb_mgr(mgr);
    return NULL;
}

void meshhold_mb_free(IMB_MGR *mgr) {
    free_mb_mgr(mgr);
}

void meshhold_mb_gcm_key(IMB_MGR *mgr, const uint8_t key[32], struct gcm_key_data *expanded) {
    IMB_AES256_GCM_PRE(mgr, key, expanded);
}

void meshhold_mb_gcm(IMB_MGR *mgr, bool seal, const struct gcm_key_data *key, const uint8_t nonce[NONCE],
                     const uint8_t *in, uint8_t *out, uint64_t len, uint8_t tag[TAG]) {
    struct gcm_context_data context;
    if (seal)
        IMB_AES256_GCM_ENC(mgr, key, &context, out, in, len, nonce, NULL, 0, tag, TAG);
    else
        IMB_AES256_GCM_DEC(mgr, key, &context, out, in, len, nonce, NULL, 0, tag, TAG);
}

// As a job, which the library does at once: a fourth faster than by its direct calls. False where it can't.
bool meshhold_mb_chacha(IMB_MGR *mgr, bool seal, const uint8_t key[32], const uint8_t nonce[NONCE],
                        const uint8_t *in, uint8_t *out, uint64_t len, uint8_t tag[TAG]) {
    IMB_JOB *job = IMB_GET_NEXT_JOB(mgr);
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->enc_keys = key;
    job->dec_keys = key;
    job->key_len_in_bytes = 32;
    job->iv = nonce;
    job->iv_len_in_bytes = NONCE;
    job->src = in;
    job->dst = out;
    job->cipher_start_src_offset_in_bytes = 0;
    job->msg_len_to_cipher_in_bytes = len;
    job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_hash_in_bytes = len;
    job->u.CHACHA20_POLY1305.aad = NULL;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = TAG;
    IMB_JOB *done = IMB_SUBMIT_JOB(mgr);
    if (!done)
        done = IMB_FLUSH_JOB(mgr);
    return done == job && done->status == IMB_STATUS_COMPLETED;
}
