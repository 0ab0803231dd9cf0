//! Inverses modulo p in variable time, by the division steps of Bernstein and Yang ("Fast constant-time gcd
//! computation and modular inversion", 2019), 62 at a time.
//!
//! Each round makes a 2x2 matrix of up to 62 steps from the lowest 62 bits of (f, g), then applies it to
//! (f, g), exactly, and to (d, e), modulo p. It ends when g is zero; then f is +-1 and d the inverse.
//!
//! # Bounds
//! Numbers are five signed 62-bit limbs. |f|, |g| <= p and d, e in (-2p, p) throughout; matrix entries are at
//! most 2^62 in magnitude, and rows have |u| + |v| <= 2^62, so sums of two products stay below 2^125.

use super::{P, Words};

const M62: i64 = (1 << 62) - 1;
/// p in limbs: 2^256 - FOLD.
const P62: [i64; 5] = [-0x1_0000_03d1, 0, 0, 0, 256];
/// 1/p modulo 2^62.
const P_INVERSE: i64 = 0x27c7_f6e2_2dda_cacf;

type Limbs = [i64; 5];

/// One round of steps: (f, g) goes to (u f + v g, q f + r g) / 2^62.
struct Matrix {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

/// The inverse of a number below p and not zero; zero for zero. About 1 us.
pub(crate) fn invert(words: &Words) -> Words {
    let (mut d, mut e): (Limbs, Limbs) = ([0; 5], [1, 0, 0, 0, 0]);
    let (mut f, mut g) = (to_limbs(&P), to_limbs(words));
    let mut len = 5;
    let mut eta = -1;
    loop {
        let matrix;
        (eta, matrix) = steps(eta, f[0] as u64, g[0] as u64);
        update_modulo_p(&mut d, &mut e, &matrix);
        update(&mut f, &mut g, &matrix, len);
        if g[..len].iter().all(|limb| *limb == 0) {
            break;
        }
        // A top limb that is only the sign of both goes into the one below.
        let (f_top, g_top) = (f[len - 1], g[len - 1]);
        if len > 1 && (f_top == 0 || f_top == -1) && (g_top == 0 || g_top == -1) {
            f[len - 2] |= f_top << 62;
            g[len - 2] |= g_top << 62;
            len -= 1;
        }
    }
    normal(d, f[len - 1] < 0)
}

/// Up to 62 steps on the lowest bits of f and g. `eta` is minus the delta of the paper.
fn steps(mut eta: i64, f: u64, g: u64) -> (i64, Matrix) {
    let (mut u, mut v, mut q, mut r) = (1u64, 0u64, 0u64, 1u64);
    let (mut f, mut g) = (f, g);
    let mut left = 62u32;
    loop {
        // Halve g while it is even; the guard bit ends that at the steps that are left.
        let zeros = (g | u64::MAX << left).trailing_zeros();
        g >>= zeros;
        u <<= zeros;
        v <<= zeros;
        eta -= i64::from(zeros);
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
            let limit = (eta + 1).min(i64::from(left)) as u32;
            let mask = (u64::MAX >> (64 - limit)) & 63;
            multiple = f.wrapping_mul(g).wrapping_mul(f.wrapping_mul(f).wrapping_sub(2)) & mask;
        } else {
            // Up to 4 bits.
            let limit = (eta + 1).min(i64::from(left)) as u32;
            let mask = (u64::MAX >> (64 - limit)) & 15;
            let inverse = f.wrapping_add((f.wrapping_add(1) & 4) << 1);
            multiple = inverse.wrapping_neg().wrapping_mul(g) & mask;
        }
        g = g.wrapping_add(f.wrapping_mul(multiple));
        q = q.wrapping_add(u.wrapping_mul(multiple));
        r = r.wrapping_add(v.wrapping_mul(multiple));
    }
    (eta, Matrix { u: u as i64, v: v as i64, q: q as i64, r: r as i64 })
}

fn wide(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}

/// (f, g) = matrix (f, g) / 2^62, on `len` limbs.
fn update(f: &mut Limbs, g: &mut Limbs, m: &Matrix, len: usize) {
    let mut cf = wide(m.u, f[0]) + wide(m.v, g[0]);
    let mut cg = wide(m.q, f[0]) + wide(m.r, g[0]);
    debug_assert!(cf as i64 & M62 == 0 && cg as i64 & M62 == 0);
    cf >>= 62;
    cg >>= 62;
    for i in 1..len {
        cf += wide(m.u, f[i]) + wide(m.v, g[i]);
        cg += wide(m.q, f[i]) + wide(m.r, g[i]);
        f[i - 1] = cf as i64 & M62;
        g[i - 1] = cg as i64 & M62;
        cf >>= 62;
        cg >>= 62;
    }
    f[len - 1] = cf as i64;
    g[len - 1] = cg as i64;
}

/// (d, e) = matrix (d, e) / 2^62 modulo p, both kept in (-2p, p).
fn update_modulo_p(d: &mut Limbs, e: &mut Limbs, m: &Matrix) {
    let (sd, se) = (d[4] >> 63, e[4] >> 63);
    // Multiples of p: those that bring negative inputs up, less those that clear the lowest 62 bits.
    let mut md = (m.u & sd) + (m.v & se);
    let mut me = (m.q & sd) + (m.r & se);
    let mut cd = wide(m.u, d[0]) + wide(m.v, e[0]);
    let mut ce = wide(m.q, d[0]) + wide(m.r, e[0]);
    md -= (P_INVERSE.wrapping_mul(cd as i64).wrapping_add(md)) & M62;
    me -= (P_INVERSE.wrapping_mul(ce as i64).wrapping_add(me)) & M62;
    cd += wide(P62[0], md);
    ce += wide(P62[0], me);
    debug_assert!(cd as i64 & M62 == 0 && ce as i64 & M62 == 0);
    cd >>= 62;
    ce >>= 62;
    for i in 1..5 {
        cd += wide(m.u, d[i]) + wide(m.v, e[i]);
        ce += wide(m.q, d[i]) + wide(m.r, e[i]);
        // The limbs of p between are zero.
        if i == 4 {
            cd += wide(P62[4], md);
            ce += wide(P62[4], me);
        }
        d[i - 1] = cd as i64 & M62;
        e[i - 1] = ce as i64 & M62;
        cd >>= 62;
        ce >>= 62;
    }
    d[4] = cd as i64;
    e[4] = ce as i64;
}

/// `limbs`, in (-2p, p), negated if asked, as a number in [0, p).
fn normal(mut limbs: Limbs, negate: bool) -> Words {
    let add_p_if_negative = |limbs: &mut Limbs| {
        if limbs[4] < 0 {
            limbs[0] += P62[0];
            limbs[4] += P62[4];
        }
    };
    let carry = |limbs: &mut Limbs| {
        for i in 0..4 {
            limbs[i + 1] += limbs[i] >> 62;
            limbs[i] &= M62;
        }
    };
    add_p_if_negative(&mut limbs);
    if negate {
        limbs = limbs.map(|limb| -limb);
    }
    carry(&mut limbs);
    add_p_if_negative(&mut limbs);
    carry(&mut limbs);
    let [a, b, c, d, e] = limbs.map(|limb| limb as u64);
    [a | b << 62, b >> 2 | c << 60, c >> 4 | d << 58, d >> 6 | e << 56]
}

fn to_limbs(words: &Words) -> Limbs {
    let [a, b, c, d] = *words;
    [a, a >> 62 | b << 2, b >> 60 | c << 4, c >> 58 | d << 6, d >> 56].map(|limb| limb as i64 & M62)
}
