//! Builds the tree from the parser's events, within the limits.
//!
//! A fault that leaves the tree whole (a repeated key, an unknown tag) is noted and the work goes
//! on; one that does not (not YAML, a limit) ends it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScanError, Tag};

use super::super::fault::{Faults, excerpt};
use super::super::limits::{DEPTH_MAX, EXPANDED_MAX_BYTES, NODES_MAX};
use super::super::path::Path;
use super::cost::Cost;
use super::tag::CoreTag;
use super::{Content, Entry, Node, Place, Scalar};

/// Reads `text` as one YAML document; `None` when a fault ended the work.
pub(in super::super) fn build(text: &str, faults: &mut Faults) -> Option<Rc<Node>> {
    let mut options = granit_parser::options! {
        emit_comments: false,
        // One more than ours, so that our limit is met first and named.
        flow_nesting_limit: DEPTH_MAX.saturating_add(1),
        block_nesting_limit: DEPTH_MAX.saturating_add(1),
    };
    options.set_emit_comments(false);
    let mut builder = Builder::new(faults);
    for event in Parser::new_from_str_with_options(text, options) {
        let outcome = match event {
            Ok((event, span)) => builder.event(event, place(&span.start)),
            Err(error) => Err(not_yaml(&error)),
        };
        if let Err(stop) = outcome {
            builder.faults.push(stop.place, &Path::root(), stop.message);
            return None;
        }
    }
    let root = builder.root;
    if root.is_none() {
        faults.push(
            Place::START,
            &Path::root(),
            "the document is empty; expected a mapping with `manifest`, `application`, and `instances`",
        );
    }
    root
}

/// What ends the work.
struct Stop {
    place: Place,
    message: String,
}

fn not_yaml(error: &ScanError) -> Stop {
    let kind = error.kind();
    let message = if matches!(kind, ErrorKind::RecursionLimitExceeded) {
        too_deep()
    } else if matches!(kind, ErrorKind::UnknownAnchor) {
        "this is not YAML: `*` begins an alias, and nothing has the anchor that it names; write a hostname that begins with `*` in quotes".to_owned()
    } else {
        format!("this is not YAML: {}", error.info())
    };
    Stop {
        place: place(error.marker()),
        message,
    }
}

fn too_deep() -> String {
    format!("mappings and lists lie more than {DEPTH_MAX} deep in each other")
}

fn place(marker: &Marker) -> Place {
    let cut = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Place {
        line: cut(marker.line().max(1)),
        column: cut(marker.col().saturating_add(1)),
    }
}

/// A mapping or list whose end was not seen yet.
struct Frame {
    place: Place,
    anchor: usize,
    cost: Cost,
    inside: Inside,
}

enum Inside {
    List(Vec<Rc<Node>>),
    Map {
        entries: Vec<Entry>,
        lines: BTreeMap<String, u32>,
        key: Option<Key>,
        merges: Vec<Rc<Node>>,
    },
}

/// A key whose value was not seen yet.
enum Key {
    Named(String, Place),
    /// `<<`: the value's entries are taken where the mapping has none of its own.
    Merge,
    /// A fault was noted; the value is dropped.
    Faulty,
}

struct Builder<'faults> {
    faults: &'faults mut Faults,
    anchors: BTreeMap<usize, Rc<Node>>,
    open: Vec<Frame>,
    root: Option<Rc<Node>>,
    documents: usize,
    spent: Cost,
}

impl<'faults> Builder<'faults> {
    fn new(faults: &'faults mut Faults) -> Self {
        Self {
            faults,
            anchors: BTreeMap::new(),
            open: Vec::new(),
            root: None,
            documents: 0,
            spent: Cost::default(),
        }
    }

    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => self.document(place),
            Event::Scalar(text, style, anchor, tag) => {
                let tag = self.core_tag(tag.as_deref(), place);
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain: tag.is_plain(style),
                };
                let cost = Cost {
                    nodes: 1,
                    bytes: scalar.text.len(),
                    height: 0,
                };
                self.spend(cost, place)?;
                let content = Content::Scalar(scalar);
                self.place_new(
                    Node {
                        place,
                        content,
                        cost,
                    },
                    anchor,
                );
                Ok(())
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.core_tag(tag.as_deref(), place);
                self.push(place, anchor, Inside::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.core_tag(tag.as_deref(), place);
                let inside = Inside::Map {
                    entries: Vec::new(),
                    lines: BTreeMap::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.push(place, anchor, inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.pop(),
            Event::Alias(anchor) => self.alias(anchor, place),
            // The last arm is for events that are switched off and for those of later releases
            // of the parser, which its enum leaves open.
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | _ => Ok(()),
        }
    }

    /// Where the next value belongs.
    fn path(&self) -> Path {
        self.open
            .iter()
            .fold(Path::root(), |path, frame| match &frame.inside {
                Inside::List(items) => path.index(items.len()),
                Inside::Map {
                    key: Some(Key::Named(key, _)),
                    ..
                } => path.key(key),
                Inside::Map { .. } => path,
            })
    }

    /// Notes a tag that means nothing here.
    fn core_tag(&mut self, tag: Option<&Tag>, place: Place) -> CoreTag {
        CoreTag::read(tag).unwrap_or_else(|message| {
            let path = self.path();
            self.faults.push(place, &path, message);
            CoreTag::Text
        })
    }

    fn document(&mut self, place: Place) -> Result<(), Stop> {
        self.documents = self.documents.saturating_add(1);
        if self.documents > 1 {
            return Err(Stop {
                place,
                message: "a second document begins here; a manifest is one document".to_owned(),
            });
        }
        Ok(())
    }

    /// Notes what is spent and refuses more than the limits.
    fn spend(&mut self, cost: Cost, place: Place) -> Result<(), Stop> {
        self.spent = self.spent.beside(cost);
        let stop = |message| Err(Stop { place, message });
        if self.open.len().saturating_add(cost.height) > DEPTH_MAX {
            return stop(too_deep());
        }
        if self.spent.nodes > NODES_MAX {
            return stop(format!(
                "the document has more than {NODES_MAX} values, counting what aliases stand for"
            ));
        }
        if self.spent.bytes > EXPANDED_MAX_BYTES {
            return stop(format!(
                "the document has more than {EXPANDED_MAX_BYTES} bytes of text, counting what aliases stand for"
            ));
        }
        Ok(())
    }

    fn push(&mut self, place: Place, anchor: usize, inside: Inside) -> Result<(), Stop> {
        let cost = Cost {
            nodes: 1,
            bytes: 0,
            height: 1,
        };
        self.spend(cost, place)?;
        self.open.push(Frame {
            place,
            anchor,
            cost,
            inside,
        });
        Ok(())
    }

    fn pop(&mut self) -> Result<(), Stop> {
        let Some(frame) = self.open.pop() else {
            return Ok(());
        };
        let mut cost = frame.cost;
        let content = match frame.inside {
            Inside::List(items) => Content::List(items),
            Inside::Map {
                mut entries,
                mut lines,
                merges,
                key: _,
            } => {
                for merged in &merges {
                    cost =
                        cost.beside(self.merge(merged, &mut entries, &mut lines, frame.place)?);
                }
                Content::Map(entries)
            }
        };
        let place = frame.place;
        self.place_new(
            Node {
                place,
                content,
                cost,
            },
            frame.anchor,
        );
        Ok(())
    }

    /// Takes the entries of a mapping, or of each in a list of mappings, that are not there yet.
    fn merge(
        &mut self,
        merged: &Rc<Node>,
        entries: &mut Vec<Entry>,
        lines: &mut BTreeMap<String, u32>,
        place: Place,
    ) -> Result<Cost, Stop> {
        let mut cost = Cost::default();
        let sources = match &merged.content {
            Content::List(items) => items.iter().collect(),
            Content::Map(_) | Content::Scalar(_) => vec![merged],
        };
        for source in sources {
            let Content::Map(given) = &source.content else {
                self.faults.push(
                    source.place,
                    &self.path(),
                    "`<<` takes a mapping or a list of mappings",
                );
                continue;
            };
            for entry in given {
                if let Slot::Vacant(slot) = lines.entry(entry.key.clone()) {
                    slot.insert(entry.place.line);
                    let copied = Cost {
                        nodes: 1,
                        bytes: entry.key.len(),
                        height: 0,
                    }
                    .around(entry.value.cost);
                    self.spend(copied, place)?;
                    cost = cost.beside(copied);
                    entries.push(Entry {
                        key: entry.key.clone(),
                        place: entry.place,
                        value: Rc::clone(&entry.value),
                    });
                }
            }
        }
        Ok(cost)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
            return Err(Stop {
                place,
                message: "an alias stands inside of what it names".to_owned(),
            });
        };
        self.spend(node.cost, place)?;
        self.place_node(node);
        Ok(())
    }

    fn place_new(&mut self, node: Node, anchor: usize) {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place_node(node);
    }

    /// Puts a whole node where it belongs: the root, an item, a key, or a value.
    fn place_node(&mut self, node: Rc<Node>) {
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        frame.cost = frame.cost.around(node.cost);
        match &mut frame.inside {
            Inside::List(items) => items.push(node),
            Inside::Map {
                entries,
                lines,
                key,
                merges,
            } => match key.take() {
                None => match new_key(&node, lines) {
                    Ok(new) => *key = Some(new),
                    Err(message) => {
                        *key = Some(Key::Faulty);
                        self.refuse_key(&node, message);
                    }
                },
                Some(Key::Merge) => merges.push(node),
                Some(Key::Faulty) => {}
                Some(Key::Named(key, place)) => entries.push(Entry {
                    key,
                    place,
                    value: node,
                }),
            },
        }
    }

    fn refuse_key(&mut self, key: &Node, message: String) {
        let path = self.path();
        let path = key
            .scalar()
            .map_or_else(|| path.clone(), |key| path.key(&key.text));
        self.faults.push(key.place, &path, message);
    }
}

/// Says why a key is refused.
fn new_key(node: &Node, lines: &mut BTreeMap<String, u32>) -> Result<Key, String> {
    let Some(scalar) = node.scalar() else {
        return Err("a key must be text, not a list or a mapping".to_owned());
    };
    if scalar.plain && scalar.text == "<<" {
        return Ok(Key::Merge);
    }
    match lines.entry(scalar.text.clone()) {
        Slot::Vacant(slot) => {
            slot.insert(node.place.line);
            Ok(Key::Named(scalar.text.clone(), node.place))
        }
        Slot::Occupied(first) => Err(format!(
            "the key {} is written twice in one mapping, first on line {}",
            excerpt(&scalar.text),
            first.get()
        )),
    }
}
