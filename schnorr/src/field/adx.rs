//! The field for x86-64 with BMI2 and ADX: four words of 64 bits, `mulx` and two carry chains.
//!
//! # Bounds
//! Every value is any number below 2^256 and every operation gives one, so magnitudes have no meaning here.
//! A product is folded twice: high * FOLD + low is below 2^290, its fifth word below 2^34, and that times
//! FOLD below 2^67. If adding it leaves 2^256 what remains is below 2^67, so adding FOLD once more ends it.
#![allow(unsafe_code, reason = "mulx, adcx and adox chains, which compilers do not write")]

use std::arch::asm;

use super::{AffinePoint, FOLD, Field, Mask, Words, add_small, canonical, inverse};

/// One number in four words.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct F64(pub(crate) Words);

/// Whether this machine has the instructions. Without them [`F64`] must not be used.
pub(crate) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("bmi2") && std::arch::is_x86_feature_detected!("adx")
}

/// From the eight words of a product in r8 to r15 to its residue below 2^256 in r8 to r11.
macro_rules! reduce {
    () => {
        concat!(
            "mov rdx, 0x1000003d1\n",
            "xor eax, eax\n",
            "mulx rcx, rax, r12\n",
            "adcx r8, rax\n",
            "adox r9, rcx\n",
            "mulx rcx, rax, r13\n",
            "adcx r9, rax\n",
            "adox r10, rcx\n",
            "mulx rcx, rax, r14\n",
            "adcx r10, rax\n",
            "adox r11, rcx\n",
            "mulx rcx, rax, r15\n",
            "adcx r11, rax\n",
            "mov eax, 0\n",
            "adcx rcx, rax\n",
            "adox rcx, rax\n",
            "mulx rcx, rax, rcx\n",
            "add r8, rax\n",
            "adc r9, rcx\n",
            "adc r10, 0\n",
            "adc r11, 0\n",
            "sbb rax, rax\n",
            "and rax, rdx\n",
            "add r8, rax\n",
            "adc r9, 0\n",
        )
    };
}

#[inline(always)]
fn product(a: &Words, b: &Words) -> Words {
    let (w0, w1, w2, w3): (u64, u64, u64, u64);
    // SAFETY: reads the 32 bytes behind each reference and no other memory; every register it changes is an
    // output. `F64` is only used where `is_available` said so.
    unsafe {
        asm!(
            // a0 * b
            "mov rdx, [rsi]",
            "mulx r9, r8, [rdi]",
            "mulx r10, rax, [rdi + 8]",
            "add r9, rax",
            "mulx r11, rax, [rdi + 16]",
            "adc r10, rax",
            "mulx r12, rax, [rdi + 24]",
            "adc r11, rax",
            "adc r12, 0",
            // + a1 * b
            "mov rdx, [rsi + 8]",
            "xor r13d, r13d",
            "mulx rcx, rax, [rdi]",
            "adcx r9, rax",
            "adox r10, rcx",
            "mulx rcx, rax, [rdi + 8]",
            "adcx r10, rax",
            "adox r11, rcx",
            "mulx rcx, rax, [rdi + 16]",
            "adcx r11, rax",
            "adox r12, rcx",
            "mulx rcx, rax, [rdi + 24]",
            "adcx r12, rax",
            "adox r13, rcx",
            "adc r13, 0",
            // + a2 * b
            "mov rdx, [rsi + 16]",
            "xor r14d, r14d",
            "mulx rcx, rax, [rdi]",
            "adcx r10, rax",
            "adox r11, rcx",
            "mulx rcx, rax, [rdi + 8]",
            "adcx r11, rax",
            "adox r12, rcx",
            "mulx rcx, rax, [rdi + 16]",
            "adcx r12, rax",
            "adox r13, rcx",
            "mulx rcx, rax, [rdi + 24]",
            "adcx r13, rax",
            "adox r14, rcx",
            "adc r14, 0",
            // + a3 * b
            "mov rdx, [rsi + 24]",
            "xor r15d, r15d",
            "mulx rcx, rax, [rdi]",
            "adcx r11, rax",
            "adox r12, rcx",
            "mulx rcx, rax, [rdi + 8]",
            "adcx r12, rax",
            "adox r13, rcx",
            "mulx rcx, rax, [rdi + 16]",
            "adcx r13, rax",
            "adox r14, rcx",
            "mulx rcx, rax, [rdi + 24]",
            "adcx r14, rax",
            "adox r15, rcx",
            "adc r15, 0",
            reduce!(),
            in("rsi") a.as_ptr(),
            in("rdi") b.as_ptr(),
            out("rax") _, out("rcx") _, out("rdx") _,
            out("r8") w0, out("r9") w1, out("r10") w2, out("r11") w3,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            options(pure, readonly, nostack),
        );
    }
    [w0, w1, w2, w3]
}

#[inline(always)]
fn square(a: &Words) -> Words {
    let (w0, w1, w2, w3): (u64, u64, u64, u64);
    // SAFETY: as above.
    unsafe {
        asm!(
            // The products of different words, once: a0 * (a1, a2, a3), a1 * (a2, a3), a2 * a3.
            "mov rdx, [rsi]",
            "mulx r10, r9, [rsi + 8]",
            "mulx r11, rax, [rsi + 16]",
            "add r10, rax",
            "mulx r12, rax, [rsi + 24]",
            "adc r11, rax",
            "adc r12, 0",
            "mov rdx, [rsi + 8]",
            "xor r14d, r14d",
            "mulx rcx, rax, [rsi + 16]",
            "adcx r11, rax",
            "adox r12, rcx",
            "mulx r13, rax, [rsi + 24]",
            "adcx r12, rax",
            "mov rdx, [rsi + 16]",
            "mulx rdi, rax, [rsi + 24]",
            "adcx r13, r14",
            "adox r13, rax",
            "adox r14, rdi",
            // Twice that, plus the squares.
            "xor r15d, r15d",
            "mov rdx, [rsi]",
            "mulx rcx, r8, rdx",
            "adcx r9, r9",
            "adox r9, rcx",
            "mov rdx, [rsi + 8]",
            "mulx rcx, rax, rdx",
            "adcx r10, r10",
            "adox r10, rax",
            "adcx r11, r11",
            "adox r11, rcx",
            "mov rdx, [rsi + 16]",
            "mulx rcx, rax, rdx",
            "adcx r12, r12",
            "adox r12, rax",
            "adcx r13, r13",
            "adox r13, rcx",
            "mov rdx, [rsi + 24]",
            "mulx rcx, rax, rdx",
            "adcx r14, r14",
            "adox r14, rax",
            "adcx r15, r15",
            "adox r15, rcx",
            reduce!(),
            in("rsi") a.as_ptr(),
            out("rdi") _,
            out("rax") _, out("rcx") _, out("rdx") _,
            out("r8") w0, out("r9") w1, out("r10") w2, out("r11") w3,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            options(pure, readonly, nostack),
        );
    }
    [w0, w1, w2, w3]
}

/// `a + b`, and the carry out.
#[inline(always)]
fn sum(a: &Words, b: &Words) -> (Words, bool) {
    let (w0, c) = a[0].carrying_add(b[0], false);
    let (w1, c) = a[1].carrying_add(b[1], c);
    let (w2, c) = a[2].carrying_add(b[2], c);
    let (w3, c) = a[3].carrying_add(b[3], c);
    ([w0, w1, w2, w3], c)
}

#[inline(always)]
fn difference(a: &Words, b: &Words) -> (Words, bool) {
    let (w0, c) = a[0].borrowing_sub(b[0], false);
    let (w1, c) = a[1].borrowing_sub(b[1], c);
    let (w2, c) = a[2].borrowing_sub(b[2], c);
    let (w3, c) = a[3].borrowing_sub(b[3], c);
    ([w0, w1, w2, w3], c)
}

#[inline(always)]
fn fold_if(carry: bool) -> u64 {
    FOLD & u64::from(carry).wrapping_neg()
}

impl Field for F64 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn splat(words: &Words) -> Self {
        F64(*words)
    }

    #[inline(always)]
    fn load<'a>(at: impl Fn(usize) -> &'a Words) -> Self {
        F64(*at(0))
    }

    #[inline(always)]
    fn load_entries<'a>(at: impl Fn(usize) -> &'a AffinePoint) -> (Self, Self) {
        let entry = at(0);
        (F64(entry.x), F64(entry.y))
    }

    #[inline(always)]
    fn store(self, mut to: impl FnMut(usize, Words)) {
        to(0, self.0);
    }

    #[inline(always)]
    fn store_canonical(self, mut to: impl FnMut(usize, Words)) {
        to(0, canonical(self.0));
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        F64(product(&self.0, &other.0))
    }

    #[inline(always)]
    fn sqr(self) -> Self {
        F64(square(&self.0))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let (words, carry) = sum(&self.0, &other.0);
        let (words, carry) = add_small(words, fold_if(carry));
        // Carried again: then what is left is below FOLD.
        F64([words[0].wrapping_add(fold_if(carry)), words[1], words[2], words[3]])
    }

    #[inline(always)]
    fn sub<const M: u64>(self, other: Self) -> Self {
        let (words, borrow) = difference(&self.0, &other.0);
        let (words, borrow) = difference(&words, &[fold_if(borrow), 0, 0, 0]);
        // Borrowed again: then what is left is above 2^256 - FOLD.
        F64([words[0].wrapping_sub(fold_if(borrow)), words[1], words[2], words[3]])
    }

    #[inline(always)]
    fn neg<const M: u64>(self) -> Self {
        F64([0; 4]).sub::<M>(self)
    }

    #[inline(always)]
    fn normalize_weak(self) -> Self {
        self
    }

    #[inline(always)]
    fn half(self) -> Self {
        // Odd values take p, which is odd too.
        let odd = (self.0[0] & 1).wrapping_neg();
        let ([a, b, c, d], carry) = sum(&self.0, &[odd & super::P[0], odd, odd, odd]);
        F64([a >> 1 | b << 63, b >> 1 | c << 63, c >> 1 | d << 63, d >> 1 | u64::from(carry) << 63])
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        Mask::from(canonical(self.0) == [0; 4])
    }

    #[inline(always)]
    fn select(mask: Mask, set: Self, clear: Self) -> Self {
        let bits = u64::from(mask & 1).wrapping_neg();
        F64(std::array::from_fn(|i| set.0[i] & bits | clear.0[i] & !bits))
    }

    #[inline]
    fn invert(self) -> Self {
        F64(inverse::by62::invert(&canonical(self.0)))
    }
}
