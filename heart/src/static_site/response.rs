//! Answers one request: status, headers, and which part of which file.

use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::body::ResponseBody;
use super::content_type::content_type;
use super::file::{Found, OpenFile, Root};
use super::path::RequestPath;

/// Served for a directory.
const INDEX: &str = "index.html";

/// Served, with status 404, for what does not exist.
const NOT_FOUND_PAGE: &str = "404.html";

/// Answers `request` from `root`.
pub(super) fn answer<Ignored>(
    root: &mut Root,
    request: &Request<Ignored>,
) -> Response<ResponseBody> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        set(&mut response, ALLOW, "GET, HEAD");
        return response;
    }
    let mut response = answer_get(root, request);
    if request.method() == Method::HEAD {
        // hyper sends no body to HEAD but takes the length from the header.
        *response.body_mut() = ResponseBody::empty();
    }
    response
}

fn answer_get<Ignored>(root: &mut Root, request: &Request<Ignored>) -> Response<ResponseBody> {
    let Some(path) = RequestPath::parse(request.uri().path()) else {
        return not_found(root);
    };
    let relative = path.relative();
    match root.find(&relative) {
        Found::File(file) if !path.is_directory => send(file, &relative, request.headers()),
        Found::Directory if path.is_directory => {
            let index = format!("{relative}/{INDEX}");
            match root.find(&index) {
                Found::File(file) => send(file, &index, request.headers()),
                Found::Directory | Found::Nothing => not_found(root),
            }
        }
        Found::Directory => {
            let query = request.uri().query().map(|query| format!("?{query}"));
            let location = path.directory_location() + query.as_deref().unwrap_or_default();
            let mut response = text(StatusCode::MOVED_PERMANENTLY, "see the directory");
            set(&mut response, LOCATION, &location);
            response
        }
        Found::File(_) | Found::Nothing => not_found(root),
    }
}

fn not_found(root: &mut Root) -> Response<ResponseBody> {
    let Found::File(page) = root.find(NOT_FOUND_PAGE) else {
        return text(StatusCode::NOT_FOUND, "not found");
    };
    let size = page.size;
    whole(page, StatusCode::NOT_FOUND, NOT_FOUND_PAGE, 0, size)
}

fn send(file: OpenFile, name: &str, headers: &HeaderMap) -> Response<ResponseBody> {
    let modified = http_date(file.modified);
    let tag = file.tag.clone();
    let size = file.size;
    let mut response = if is_unchanged(&file, headers) {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        match wanted_range(&file, headers) {
            Range::Whole => whole(file, StatusCode::OK, name, 0, size),
            Range::Part { first, last } => {
                let length = last - first + 1;
                let mut response = whole(file, StatusCode::PARTIAL_CONTENT, name, first, length);
                let range = format!("bytes {first}-{last}/{size}");
                set(&mut response, CONTENT_RANGE, &range);
                response
            }
            Range::Outside => {
                let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "outside the file");
                set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                return response;
            }
        }
    };
    set(&mut response, ETAG, &tag);
    set(&mut response, LAST_MODIFIED, &modified);
    set(&mut response, ACCEPT_RANGES, "bytes");
    response
}

fn whole(
    file: OpenFile,
    status: StatusCode,
    name: &str,
    offset: u64,
    length: u64,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::File {
        file: file.file,
        offset,
        left: length,
    });
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, content_type(name));
    set(&mut response, CONTENT_LENGTH, &length.to_string());
    response
}

fn text(status: StatusCode, words: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Text(words.into()));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, content_type(".txt"));
    set(&mut response, CONTENT_LENGTH, &words.len().to_string());
    response
}

fn set(response: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    // All values are made here of visible characters; one that is not is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// RFC 9110, section 13.2.2: the date is looked at only when no tags are given.
fn is_unchanged(file: &OpenFile, headers: &HeaderMap) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        return headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || opaque(tag) == opaque(&file.tag));
    }
    header(headers, IF_MODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .is_some_and(|since| whole_seconds(file.modified) <= since)
}

/// The weak comparison ignores the weakness.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

enum Range {
    Whole,
    Part { first: u64, last: u64 },
    Outside,
}

/// One range is served; several, or what is not understood, give the whole file as RFC 9110 allows.
fn wanted_range(file: &OpenFile, headers: &HeaderMap) -> Range {
    if !range_still_applies(file, headers) {
        return Range::Whole;
    }
    let Some((first, last)) = header(headers, RANGE)
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Range::Whole;
    };
    let number = |digits: &str| -> Option<u64> {
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            digits.parse().ok()
        } else {
            None
        }
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Range::Whole,
            Some(0) => Range::Outside,
            Some(_) if file.size == 0 => Range::Outside,
            Some(length) => Range::Part {
                first: file.size.saturating_sub(length),
                last: file.size - 1,
            },
        },
        (first, last) => {
            let end = if last.is_empty() {
                Some(u64::MAX)
            } else {
                number(last)
            };
            match (number(first), end) {
                (Some(first), Some(end)) if first > end => Range::Whole,
                (Some(first), Some(_)) if first >= file.size => Range::Outside,
                (Some(first), Some(end)) => Range::Part {
                    first,
                    last: end.min(file.size - 1),
                },
                _ => Range::Whole,
            }
        }
    }
}

/// A resumed download goes on only in the same content; weak tags do not prove that.
fn range_still_applies(file: &OpenFile, headers: &HeaderMap) -> bool {
    match header(headers, IF_RANGE) {
        None => !headers.contains_key(IF_RANGE),
        Some(tag) if tag.starts_with('"') => tag == file.tag,
        Some(tag) if tag.starts_with("W/") => false,
        Some(date) => {
            httpdate::parse_http_date(date).is_ok_and(|date| date == whole_seconds(file.modified))
        }
    }
}

/// Cut to what a date in a header can say: seconds of the years 1970 to 9999.
fn whole_seconds(time: SystemTime) -> SystemTime {
    const LAST_SECOND: u64 = 253_402_300_799;
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs().min(LAST_SECOND))
}

fn http_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(whole_seconds(time))
}
