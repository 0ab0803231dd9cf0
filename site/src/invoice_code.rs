//! Invoices as QR codes, for the pages of the relay that ask for a payment.

use std::fmt::Write as _;

use qrcodegen::{QrCode, QrCodeEcc};

use crate::http_response::HttpResponse;

/// Longest invoice that is drawn, in characters.
const INVOICE_CHARS_MAX: usize = 1_500;
/// White modules around a code.
const BORDER: i32 = 4;

/// `/invoice.svg?invoice=<BOLT 11>`: the invoice as a QR code, in upper case, which makes the code smaller. 400 for anything else.
pub fn respond(query: &str) -> HttpResponse {
    let invoice = query.strip_prefix("invoice=").unwrap_or_default();
    let is_invoice = invoice.len() <= INVOICE_CHARS_MAX
        && invoice.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("ln"))
        && invoice.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let text = format!("LIGHTNING:{}", invoice.to_ascii_uppercase());
    let Some(Ok(code)) = is_invoice.then(|| QrCode::encode_text(&text, QrCodeEcc::Low)) else {
        return HttpResponse::error_in(400, "invoice", "must be a Lightning invoice (BOLT 11)");
    };
    HttpResponse::new(200, "image/svg+xml", svg(&code)).with("cache-control", "private, max-age=600")
}

fn svg(code: &QrCode) -> String {
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            let _ = write!(path, "M{},{}h1v1h-1z", x + BORDER, y + BORDER);
        }
    }
    let size = code.size() + 2 * BORDER;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" shape-rendering=\"crispEdges\">\
         <path fill=\"#fff\" d=\"M0,0h{size}v{size}H0z\"/><path d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invoices_are_drawn_and_nothing_else() {
        let drawn = respond(&format!("invoice=lnbc10n1p{}", "q".repeat(300)));
        assert_eq!(drawn.status, 200);
        assert!(String::from_utf8_lossy(&drawn.body).starts_with("<svg "));
        let long = format!("invoice=ln{}", "q".repeat(INVOICE_CHARS_MAX));
        for query in ["", "invoice=", "invoice=bc1q", "invoice=lnbc<b>", "x=lnbc1", &long] {
            assert_eq!(respond(query).status, 400, "{query}");
        }
    }
}
