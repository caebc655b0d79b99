//! QR codes of key strings: drawn for those who share one, read from pictures that somebody uploads.

#![allow(unused_qualifications, reason = "in what utoipa's macro makes of parameters")]

use super::App;
use super::state::Answer;
use crate::config::secret::SecretText;
use crate::control::problem::Problem;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use fast_qr::convert::Builder;
use fast_qr::convert::svg::SvgBuilder;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Larger pictures are refused (pixels).
pub(super) const MAX_PIXELS: usize = 1 << 20;

/// The size of a picture.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Size {
    /// In pixels.
    #[param(minimum = 1, maximum = 65535)]
    width: u16,
    /// In pixels.
    #[param(minimum = 1, maximum = 65535)]
    height: u16,
}

/// What a code says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Read {
    /// Its text.
    #[schema(value_type = String)]
    text: SecretText,
}

/// Reads the QR code in a picture: one byte of luminance a pixel, row by row, at most 1 MiB.
#[utoipa::path(post, path = "/api/v1/qr", params(Size),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Read)))]
pub(super) async fn read(
    State(_): State<App>,
    size: Result<Query<Size>, QueryRejection>,
    request: Request,
) -> Answer<Read> {
    let size = size.map_err(|_| Problem::malformed("`width` and `height` say how many pixels there are"))?;
    let (width, height) = (usize::from(size.width), usize::from(size.height));
    if width * height > MAX_PIXELS {
        return Err(Problem::invalid(format!("a picture has at most {MAX_PIXELS} pixels; scale it down")));
    }
    let pixels = body(request).await?;
    if width * height == 0 || pixels.len() != width * height {
        let detail = format!("{} bytes instead of {width} × {height}", pixels.len());
        return Err(Problem::invalid(detail));
    }
    let found = tokio::task::spawn_blocking(move || decode(width, height, &pixels)).await;
    let text = found.ok().flatten();
    let text = text.ok_or_else(|| {
        Problem::invalid("no QR code in this picture; crop it to the code, or paste the key string")
    })?;
    Ok(Json(Read { text }))
}

/// Longer than what other addresses take.
async fn body(request: Request) -> Result<Bytes, Problem> {
    axum::body::to_bytes(request.into_body(), MAX_PIXELS).await.map_err(|_| {
        Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, "the picture can't be read, or is too long")
    })
}

fn decode(width: usize, height: usize, pixels: &[u8]) -> Option<SecretText> {
    let at = |x: usize, y: usize| pixels.get(y * width + x).copied().unwrap_or(255);
    let mut picture = rqrr::PreparedImage::prepare_from_greyscale(width, height, at);
    let codes = picture.detect_grids();
    codes.iter().find_map(|code| code.decode().ok()).map(|(_, text)| SecretText::new(text))
}

/// The code of `text` as SVG.
///
/// # Errors
/// It is too long.
pub(super) fn picture(text: &str) -> Result<String, Problem> {
    let code = fast_qr::QRBuilder::new(text).build();
    let code = code.map_err(|_| Problem::failed("the key is too long for a QR code; share the string"))?;
    Ok(SvgBuilder::default().margin(4).to_str(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_read() {
        let text = "meshkey1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0jqgfzyvjz2f38";
        let code = fast_qr::QRBuilder::new(text).build().unwrap();
        let (scale, margin) = (4, 4);
        let side = (code.size + 2 * margin) * scale;
        let dark = |x: usize, y: usize| {
            let module = |at: usize| (at / scale).checked_sub(margin).filter(|at| *at < code.size);
            module(x).zip(module(y)).is_some_and(|(x, y)| code[y][x].value())
        };
        let pixels: Vec<u8> =
            (0..side * side).map(|at| if dark(at % side, at / side) { 0 } else { 255 }).collect();
        assert_eq!(decode(side, side, &pixels).unwrap().reveal(), text);
        assert!(decode(side, side, &vec![200; side * side]).is_none());
        let picture = picture(text).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("viewBox") && !picture.contains("script"));
    }
}
