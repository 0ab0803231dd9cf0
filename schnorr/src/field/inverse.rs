//! Inverses modulo p in variable time, by the division steps of Bernstein and Yang ("Fast constant-time gcd
//! computation and modular inversion", 2019), a limb's bits at a time.
//!
//! Each round makes a 2x2 matrix of `BITS` steps from the lowest bits of (f, g), then applies it to
//! (f, g), exactly, and to (d, e), modulo p. It ends when g is zero; then f is +-1 and d the inverse.
//!
//! 62 bits in words of 64 are for machines that multiply those into 128; 30 in 32 for the others, and wasm32.
//!
//! # Bounds
//! Numbers are signed limbs. |f|, |g| <= p and d, e in (-2p, p) throughout; matrix entries are at most 2^`BITS`
//! in magnitude, and rows have |u| + |v| <= 2^`BITS`, so sums of two products stay below 2^(2 `BITS` + 1).

macro_rules! inversion {
    ($name:ident, $signed:ident, $unsigned:ident, $wide:ident, $bits:literal, $len:literal, $p:expr, $p_inverse:literal) => {
        pub(crate) mod $name {
            use crate::field::{P, Words};

            const BITS: u32 = $bits;
            const LEN: usize = $len;
            const MASK: $signed = (1 << BITS) - 1;
            /// p in limbs.
            const P_LIMBS: Limbs = $p;
            /// 1/p modulo 2^`BITS`.
            const P_INVERSE: $signed = $p_inverse;

            type Limbs = [$signed; LEN];

            /// One round of steps: (f, g) goes to (u f + v g, q f + r g) / 2^`BITS`.
            struct Matrix {
                u: $signed,
                v: $signed,
                q: $signed,
                r: $signed,
            }

            /// The inverse of a number below p and not zero; zero for zero.
            pub(crate) fn invert(words: &Words) -> Words {
                let (mut d, mut e) = ([0; LEN], [0; LEN]);
                e[0] = 1;
                let (mut f, mut g) = (to_limbs(&P), to_limbs(words));
                let mut len = LEN;
                let mut eta = -1;
                loop {
                    let matrix;
                    (eta, matrix) = steps(eta, f[0] as $unsigned, g[0] as $unsigned);
                    update_modulo_p(&mut d, &mut e, &matrix);
                    update(&mut f, &mut g, &matrix, len);
                    if g[..len].iter().all(|limb| *limb == 0) {
                        break;
                    }
                    // A top limb that is only the sign of both goes into the one below.
                    let (f_top, g_top) = (f[len - 1], g[len - 1]);
                    if len > 1 && (f_top == 0 || f_top == -1) && (g_top == 0 || g_top == -1) {
                        f[len - 2] |= f_top << BITS;
                        g[len - 2] |= g_top << BITS;
                        len -= 1;
                    }
                }
                normal(d, f[len - 1] < 0)
            }

            /// `BITS` steps on the lowest bits of f and g. `eta` is minus the delta of the paper.
            fn steps(mut eta: $signed, mut f: $unsigned, mut g: $unsigned) -> ($signed, Matrix) {
                let (mut u, mut v, mut q, mut r): ($unsigned, $unsigned, $unsigned, $unsigned) = (1, 0, 0, 1);
                let mut left = BITS;
                loop {
                    // Halve g while it is even; the guard bit ends that at the steps that are left.
                    let zeros = (g | $unsigned::MAX << left).trailing_zeros();
                    g >>= zeros;
                    u <<= zeros;
                    v <<= zeros;
                    eta -= zeros as $signed;
                    left -= zeros;
                    if left == 0 {
                        break;
                    }
                    let multiple;
                    if eta < 0 {
                        eta = -eta;
                        (f, g) = (g, f.wrapping_neg());
                        (u, q) = (q, u.wrapping_neg());
                        (v, r) = (r, v.wrapping_neg());
                        // Clears up to 6 bits of g at once, no more than the steps left and those that keep eta's sign.
                        let limit = (eta + 1).min(left as $signed) as u32;
                        let mask = ($unsigned::MAX >> ($unsigned::BITS - limit)) & 63;
                        multiple = f.wrapping_mul(g).wrapping_mul(f.wrapping_mul(f).wrapping_sub(2)) & mask;
                    } else {
                        // Up to 4 bits.
                        let limit = (eta + 1).min(left as $signed) as u32;
                        let mask = ($unsigned::MAX >> ($unsigned::BITS - limit)) & 15;
                        let inverse = f.wrapping_add((f.wrapping_add(1) & 4) << 1);
                        multiple = inverse.wrapping_neg().wrapping_mul(g) & mask;
                    }
                    g = g.wrapping_add(f.wrapping_mul(multiple));
                    q = q.wrapping_add(u.wrapping_mul(multiple));
                    r = r.wrapping_add(v.wrapping_mul(multiple));
                }
                (eta, Matrix { u: u as $signed, v: v as $signed, q: q as $signed, r: r as $signed })
            }

            #[inline(always)]
            fn wide(a: $signed, b: $signed) -> $wide {
                $wide::from(a) * $wide::from(b)
            }

            /// (f, g) = matrix (f, g) / 2^`BITS`, on `len` limbs.
            fn update(f: &mut Limbs, g: &mut Limbs, m: &Matrix, len: usize) {
                let mut cf = wide(m.u, f[0]) + wide(m.v, g[0]);
                let mut cg = wide(m.q, f[0]) + wide(m.r, g[0]);
                debug_assert!(cf as $signed & MASK == 0 && cg as $signed & MASK == 0);
                cf >>= BITS;
                cg >>= BITS;
                for i in 1..len {
                    cf += wide(m.u, f[i]) + wide(m.v, g[i]);
                    cg += wide(m.q, f[i]) + wide(m.r, g[i]);
                    f[i - 1] = cf as $signed & MASK;
                    g[i - 1] = cg as $signed & MASK;
                    cf >>= BITS;
                    cg >>= BITS;
                }
                f[len - 1] = cf as $signed;
                g[len - 1] = cg as $signed;
            }

            /// (d, e) = matrix (d, e) / 2^`BITS` modulo p, both kept in (-2p, p).
            fn update_modulo_p(d: &mut Limbs, e: &mut Limbs, m: &Matrix) {
                let (sd, se) = (d[LEN - 1] >> (BITS + 1), e[LEN - 1] >> (BITS + 1));
                // Multiples of p: those that bring negative inputs up, less those that clear the lowest bits.
                let mut md = (m.u & sd) + (m.v & se);
                let mut me = (m.q & sd) + (m.r & se);
                let mut cd = wide(m.u, d[0]) + wide(m.v, e[0]);
                let mut ce = wide(m.q, d[0]) + wide(m.r, e[0]);
                md -= (P_INVERSE.wrapping_mul(cd as $signed).wrapping_add(md)) & MASK;
                me -= (P_INVERSE.wrapping_mul(ce as $signed).wrapping_add(me)) & MASK;
                cd += wide(P_LIMBS[0], md);
                ce += wide(P_LIMBS[0], me);
                debug_assert!(cd as $signed & MASK == 0 && ce as $signed & MASK == 0);
                cd >>= BITS;
                ce >>= BITS;
                for i in 1..LEN {
                    cd += wide(m.u, d[i]) + wide(m.v, e[i]);
                    ce += wide(m.q, d[i]) + wide(m.r, e[i]);
                    // Most limbs of p are zero.
                    if P_LIMBS[i] != 0 {
                        cd += wide(P_LIMBS[i], md);
                        ce += wide(P_LIMBS[i], me);
                    }
                    d[i - 1] = cd as $signed & MASK;
                    e[i - 1] = ce as $signed & MASK;
                    cd >>= BITS;
                    ce >>= BITS;
                }
                d[LEN - 1] = cd as $signed;
                e[LEN - 1] = ce as $signed;
            }

            /// `limbs`, in (-2p, p), negated if asked, as a number in [0, p).
            fn normal(mut limbs: Limbs, negate: bool) -> Words {
                let add_p_if_negative = |limbs: &mut Limbs| {
                    if limbs[LEN - 1] < 0 {
                        limbs.iter_mut().zip(P_LIMBS).for_each(|(limb, p)| *limb += p);
                    }
                };
                let carry = |limbs: &mut Limbs| {
                    for i in 0..LEN - 1 {
                        limbs[i + 1] += limbs[i] >> BITS;
                        limbs[i] &= MASK;
                    }
                };
                add_p_if_negative(&mut limbs);
                if negate {
                    limbs = limbs.map(|limb| -limb);
                }
                carry(&mut limbs);
                add_p_if_negative(&mut limbs);
                carry(&mut limbs);
                let mut words = [0; 4];
                for (i, limb) in limbs.iter().enumerate() {
                    let (word, shift) = word_and_shift(i);
                    words[word] |= (*limb as u64) << shift;
                    if shift + BITS > 64 && word < 3 {
                        words[word + 1] |= (*limb as u64) >> (64 - shift);
                    }
                }
                words
            }

            fn to_limbs(words: &Words) -> Limbs {
                std::array::from_fn(|i| {
                    let (word, shift) = word_and_shift(i);
                    let mut limb = words[word] >> shift;
                    if shift + BITS > 64 && word < 3 {
                        limb |= words[word + 1] << (64 - shift);
                    }
                    limb as $signed & MASK
                })
            }

            /// The word that a limb begins in, and its lowest bit there.
            fn word_and_shift(limb: usize) -> (usize, u32) {
                let bit = BITS * limb as u32;
                ((bit / 64) as usize, bit % 64)
            }
        }
    };
}

inversion!(by62, i64, u64, i128, 62, 5, [-0x1_0000_03d1, 0, 0, 0, 256], 0x27c7_f6e2_2dda_cacf);
inversion!(by30, i32, u32, i64, 30, 9, [-0x3d1, -4, 0, 0, 0, 0, 0, 0, 0x1_0000], 0x2dda_cacf);
