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
use std::borrow::Cow;
use utoipa::{IntoParams, ToSchema};

/// Larger pictures are refused (pixels).
pub(super) const MAX_PIXELS: usize = 1 << 20;

/// Pictures are enlarged up to this (pixels): modules of larger ones are wide enough.
const MAX_ENLARGED: usize = 4 << 20;

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
    let picture = Picture { width, height, pixels: Cow::Borrowed(pixels) };
    // Where a module is a few pixels wide, what one look misses another finds.
    let looks: [fn(&Picture<'_>) -> Option<SecretText>; 5] = [
        |picture| picture.by_local_threshold(),
        |picture| picture.enlarged(4)?.by_one_threshold(),
        |picture| picture.enlarged(3)?.by_local_threshold(),
        |picture| picture.enlarged(2)?.by_one_threshold(),
        |picture| picture.by_one_threshold(),
    ];
    looks.iter().find_map(|look| look(&picture))
}

/// Luminance, row by row.
struct Picture<'a> {
    width: usize,
    height: usize,
    pixels: Cow<'a, [u8]>,
}

impl Picture<'_> {
    fn at(&self, x: usize, y: usize) -> u8 {
        self.pixels.get(y * self.width + x).copied().unwrap_or(255)
    }

    /// For photographs: lit from one side.
    fn by_local_threshold(&self) -> Option<SecretText> {
        let at = |x, y| self.at(x, y);
        let mut found = rqrr::PreparedImage::prepare_from_greyscale(self.width, self.height, at);
        first(found.detect_grids().iter().map(rqrr::Grid::decode))
    }

    /// For what a screen showed.
    fn by_one_threshold(&self) -> Option<SecretText> {
        let dark = |x, y| self.at(x, y) < 128;
        let mut found = rqrr::PreparedImage::prepare_from_bitmap(self.width, self.height, dark);
        first(found.detect_grids().iter().map(rqrr::Grid::decode))
    }

    /// `times` as large, smoothly; none where that is more than is needed.
    fn enlarged(&self, times: usize) -> Option<Picture<'static>> {
        let (width, height) = (self.width * times, self.height * times);
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| self.between(x, y, times)));
        let few = width * height <= MAX_ENLARGED;
        few.then(|| Picture { width, height, pixels: pixels.collect() })
    }

    /// Bilinear interpolation at a pixel of the picture that is `times` as large.
    fn between(&self, x: usize, y: usize, times: usize) -> u8 {
        let place = |at: usize, last: usize| {
            let at = (2 * at + 1).saturating_sub(times);
            let first = at / (2 * times);
            (first, (first + 1).min(last), at % (2 * times))
        };
        let ((left, right, to_right), (above, below, down)) =
            (place(x, self.width - 1), place(y, self.height - 1));
        let mix = |one: usize, other: usize, share: usize| one * (2 * times - share) + other * share;
        let row = |y| mix(self.at(left, y).into(), self.at(right, y).into(), to_right);
        (mix(row(above), row(below), down) / (4 * times * times)) as u8
    }
}

/// The first code that can be read.
fn first<M, E>(mut codes: impl Iterator<Item = Result<(M, String), E>>) -> Option<SecretText> {
    codes.find_map(Result::ok).map(|(_, text)| SecretText::new(text))
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

    /// As long as keys are.
    const KEY: &str = "meshkey1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0jqgfzyvjz2f38qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0jqgfzyvjz2f38";

    /// A code drawn into `side` pixels, smoothed as browsers do, or not.
    fn drawn(text: &str, side: usize, smooth: bool) -> Vec<u8> {
        let code = fast_qr::QRBuilder::new(text).build().unwrap();
        let (margin, parts) = (4, if smooth { 6 } else { 1 });
        let module = |at: usize| {
            let at = at * (code.size + 2 * margin) / (side * parts);
            at.checked_sub(margin).filter(|at| *at < code.size)
        };
        let light = |x: usize, y: usize| module(x).zip(module(y)).is_none_or(|(x, y)| !code[y][x].value());
        let pixel = |at: usize| {
            let (left, top) = (at % side * parts, at / side * parts);
            let spots = (0..parts * parts).filter(|spot| light(left + spot % parts, top + spot / parts));
            (spots.count() * 255 / (parts * parts)) as u8
        };
        (0..side * side).map(pixel).collect()
    }

    #[test]
    fn codes_of_any_size_are_read() {
        let text = |side: usize, smooth| decode(side, side, &drawn(KEY, side, smooth));
        for side in (150..700).step_by(10).chain([220, 223, 258]) {
            for smooth in [false, true] {
                let found = text(side, smooth);
                assert_eq!(
                    found.as_ref().map(SecretText::reveal),
                    Some(KEY),
                    "{side} pixels, smooth: {smooth}"
                );
            }
        }
        assert!(decode(300, 300, &vec![200; 90_000]).is_none());
    }

    #[test]
    fn the_picture_of_a_code_runs_nothing() {
        let picture = picture(KEY).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("viewBox") && !picture.contains("script"));
    }
}
