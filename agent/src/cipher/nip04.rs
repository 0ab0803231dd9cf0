//! NIP-04: AES-256-CBC under the x coordinate of the shared point.

use aes::Aes256;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};

use super::{CipherError, TEXT_MAX};

/// Writes base64 with padding, reads it with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn encrypt(key: &[u8; 32], text: &str, iv: [u8; 16]) -> String {
    let text =
        cbc::Encryptor::<Aes256>::new(key.into(), &iv.into()).encrypt_padded_vec::<Pkcs7>(text.as_bytes());
    format!("{}?iv={}", BASE64.encode(text), BASE64.encode(iv))
}

/// The bytes of the two parts of a payload.
pub(super) fn decode(text: &str, iv: &str) -> Result<(Vec<u8>, [u8; 16]), CipherError> {
    // Base64 takes four characters for three bytes.
    if text.len() / 4 * 3 > TEXT_MAX + 32 {
        return Err(CipherError::Length);
    }
    let decode = |text| BASE64.decode(text).map_err(|_| CipherError::Malformed);
    let iv = decode(iv)?.try_into().map_err(|_| CipherError::Malformed)?;
    let text = decode(text)?;
    if text.is_empty() || text.len() % 16 != 0 {
        return Err(CipherError::Malformed);
    }
    Ok((text, iv))
}

pub(super) fn decrypt(key: &[u8; 32], text: Vec<u8>, iv: [u8; 16]) -> Result<String, CipherError> {
    let text = cbc::Decryptor::<Aes256>::new(key.into(), &iv.into())
        .decrypt_padded_vec::<Pkcs7>(&text)
        .map_err(|_| CipherError::Unauthentic)?;
    String::from_utf8(text).map_err(|_| CipherError::Unauthentic)
}
