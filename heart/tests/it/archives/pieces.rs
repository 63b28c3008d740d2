//! The pieces that archives are made of, hostile ones included.

use proptest::prelude::*;
use tar::{EntryType, Header};

/// A header and what follows it.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    header: Header,
    content: Vec<u8>,
}

impl Piece {
    pub(super) fn new(name: &str, kind: EntryType, content: &[u8]) -> Self {
        Self {
            header: header(name, kind, content.len() as u64, 0o644),
            content: content.to_vec(),
        }
    }

    pub(super) fn raw(header: Header) -> Self {
        Self {
            header,
            content: Vec::new(),
        }
    }
}

/// The fields are written as bytes: the crate's own setters refuse what is needed here.
pub(super) fn header(name: &str, kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    let field = &mut header.as_old_mut().name;
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

pub(super) fn file(name: &str) -> Piece {
    Piece::new(name, EntryType::Regular, b"content")
}

pub(super) fn directory(name: &str) -> Piece {
    Piece::new(name, EntryType::Directory, b"")
}

pub(super) fn with_target(name: &str, kind: EntryType, target: &str) -> Piece {
    let mut piece = Piece::new(name, kind, b"");
    let field = &mut piece.header.as_old_mut().linkname;
    field[..target.len()].copy_from_slice(target.as_bytes());
    piece.header.set_cksum();
    piece
}

pub(super) fn link(name: &str, target: &str) -> Piece {
    with_target(name, EntryType::Symlink, target)
}

pub(super) fn hard_link(name: &str, target: &str) -> Piece {
    with_target(name, EntryType::Link, target)
}

pub(super) fn special(kind: EntryType) -> Piece {
    Piece::new("special", kind, b"")
}

pub(super) fn with_mode(name: &str, mode: u32) -> Piece {
    Piece::raw(header(name, EntryType::Regular, 0, mode))
}

pub(super) fn long_name(name: &str) -> Piece {
    let mut content = name.as_bytes().to_vec();
    content.push(0);
    Piece::new("././@LongLink", EntryType::GNULongName, &content)
}

pub(super) fn extended(records: &[(&str, &str)]) -> Piece {
    Piece::new("pax", EntryType::XHeader, &pax(records))
}

pub(super) fn global(records: &[(&str, &str)]) -> Piece {
    Piece::new("pax", EntryType::XGlobalHeader, &pax(records))
}

pub(super) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len();
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        content.push_str(&format!("{length}{rest}"));
    }
    content.into_bytes()
}

pub(super) fn archive(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece.header.as_bytes());
        bytes.extend_from_slice(&piece.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(super) fn any_name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => "[a-d]",
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => Just("escaped".to_owned()),
    ];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

pub(super) fn any_piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        8 => any_name().prop_map(|name| file(&name)),
        4 => any_name().prop_map(|name| directory(&name)),
        4 => (any_name(), any_name()).prop_map(|(name, target)| link(&name, &target)),
        2 => (any_name(), any_name()).prop_map(|(name, target)| hard_link(&name, &target)),
        1 => any_name().prop_map(|name| long_name(&name)),
        1 => any_name().prop_map(|name| extended(&[("path", &name)])),
        1 => any_name().prop_map(|name| extended(&[("linkpath", &name)])),
        1 => (0..20_u64).prop_map(|size| extended(&[("size", &size.to_string())])),
        1 => (any_name(), 0..0o10000_u32).prop_map(|(name, mode)| with_mode(&name, mode)),
        1 => any::<u8>().prop_map(|kind| special(EntryType::new(kind))),
        1 => (any_name(), any::<u64>())
            .prop_map(|(name, size)| Piece::raw(header(&name, EntryType::Regular, size, 0o644))),
    ]
}
