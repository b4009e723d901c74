//! What a pickle has built so far: nodes that refer to each other, and how they become one value.

use std::borrow::Cow;

use super::super::value::{Value, keep_last};
use super::super::{Limits, MAX_DEPTH, Unreadable};
use super::{known, refuse};

/// A node of the [`Arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

/// When something happened: the octet of the pickle.
type Time = usize;

/// How an instance is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The class or function is called.
    Call,
    /// `cls.__new__` is called.
    New,
}

pub(super) enum Node<'a> {
    Atom(Value),
    Str(Cow<'a, str>),
    Bytes(&'a [u8]),
    Bytearray(&'a [u8]),
    /// A class or function.
    Global(Box<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>, Time),
    Set(Vec<Id>, Time),
    Dict(Vec<(Id, Id)>, Time),
    Instance(Box<Instance>),
}

/// What a real unpickler would make by calling something.
pub(super) struct Instance {
    how: How,
    class: Id,
    args: Id,
    kwargs: Option<Id>,
    made: Time,
    states: Vec<(Id, Time)>,
    items: Vec<(Id, Time)>,
    entries: Vec<(Id, Id, Time)>,
}

/// All nodes, and what is left of the limits.
pub(super) struct Arena<'a> {
    nodes: Vec<Node<'a>>,
    max_nodes: usize,
    /// Values that may still be written out.
    values_left: usize,
    /// Octets of text and bytes that may still be written out.
    octets_left: usize,
}

impl<'a> Arena<'a> {
    pub(super) fn new(limits: Limits) -> Self {
        Arena {
            nodes: Vec::new(),
            max_nodes: limits.max_values,
            values_left: limits.max_values,
            octets_left: limits.max_message,
        }
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Id, Unreadable> {
        if self.nodes.len() >= self.max_nodes {
            return Err(refuse("too many values"));
        }
        let id = u32::try_from(self.nodes.len()).map_err(|_| refuse("too many values"))?;
        self.nodes.push(node);
        Ok(Id(id))
    }

    fn node(&self, id: Id) -> Option<&Node<'a>> {
        self.nodes.get(id.0 as usize)
    }

    fn node_mut(&mut self, id: Id) -> Option<&mut Node<'a>> {
        self.nodes.get_mut(id.0 as usize)
    }

    pub(super) fn add_instance(&mut self, how: How, class: Id, args: Id, kwargs: Option<Id>, now: Time) -> Result<Id, Unreadable> {
        let sound = matches!(self.node(class), Some(Node::Global(_) | Node::Instance(_)))
            && matches!(self.node(args), Some(Node::Tuple(_)))
            && kwargs.is_none_or(|kwargs| matches!(self.node(kwargs), Some(Node::Dict(..))));
        if !sound {
            return Err(refuse("a call of what is not a plain class or function"));
        }
        self.add(Node::Instance(Box::new(Instance {
            how,
            class,
            args,
            kwargs,
            made: now,
            states: Vec::new(),
            items: Vec::new(),
            entries: Vec::new(),
        })))
    }

    /// The class whose module and qualified name are on the stack as text.
    pub(super) fn class_of_strings(&self, module: Id, name: Id) -> Result<Box<str>, Unreadable> {
        match (self.node(module), self.node(name)) {
            (Some(Node::Str(module)), Some(Node::Str(name))) => {
                known::class_name(module, name).map(Into::into).ok_or_else(|| refuse("a bad name"))
            }
            _ => Err(refuse("a name that is not text")),
        }
    }

    pub(super) fn append(&mut self, list: Id, new: &[Id], now: Time) -> Result<(), Unreadable> {
        match self.node_mut(list) {
            Some(Node::List(items, changed)) => {
                items.extend_from_slice(new);
                *changed = now;
            }
            Some(Node::Instance(instance)) => instance.items.extend(new.iter().map(|item| (*item, now))),
            _ => return Err(refuse("an append to what is no list")),
        }
        Ok(())
    }

    pub(super) fn add_items(&mut self, set: Id, new: &[Id], now: Time) -> Result<(), Unreadable> {
        let Some(Node::Set(items, changed)) = self.node_mut(set) else {
            return Err(refuse("an addition to what is no set"));
        };
        items.extend_from_slice(new);
        *changed = now;
        Ok(())
    }

    pub(super) fn set_items(&mut self, dict: Id, new: &[(Id, Id)], now: Time) -> Result<(), Unreadable> {
        match self.node_mut(dict) {
            Some(Node::Dict(entries, changed)) => {
                entries.extend_from_slice(new);
                *changed = now;
            }
            Some(Node::Instance(instance)) => instance.entries.extend(new.iter().map(|(key, value)| (*key, *value, now))),
            _ => return Err(refuse("an entry for what is no dictionary")),
        }
        Ok(())
    }

    pub(super) fn build(&mut self, instance: Id, state: Id, now: Time) -> Result<(), Unreadable> {
        let Some(Node::Instance(instance)) = self.node_mut(instance) else {
            return Err(refuse("a state for what is no instance"));
        };
        instance.states.push((state, now));
        Ok(())
    }

    /// Writes out the value of a node.
    pub(super) fn resolve(mut self, root: Id) -> Result<Value, Unreadable> {
        let nodes = std::mem::take(&mut self.nodes);
        Writer {
            nodes: &nodes,
            values_left: self.values_left,
            octets_left: self.octets_left,
        }
        .write(root, Time::MAX, 0)
    }
}

struct Writer<'n, 'a> {
    nodes: &'n [Node<'a>],
    values_left: usize,
    octets_left: usize,
}

impl<'n, 'a> Writer<'n, 'a> {
    fn node(&self, id: Id) -> Result<&'n Node<'a>, Unreadable> {
        self.nodes.get(id.0 as usize).ok_or_else(|| refuse("an unknown value"))
    }

    fn spend(&mut self, octets: usize) -> Result<(), Unreadable> {
        self.octets_left = self
            .octets_left
            .checked_sub(octets)
            .ok_or_else(|| refuse("too long when its shared parts are written out"))?;
        Ok(())
    }

    /// The value of a node, as it was at `deadline`. Calls itself for what is inside, [`MAX_DEPTH`] times at most, which also ends a
    /// structure that contains itself.
    ///
    /// A call sees its arguments as they are at that moment. If a list is given to a call and then changed, the value that the call
    /// made cannot be known: it is refused.
    fn write(&mut self, id: Id, deadline: Time, depth: usize) -> Result<Value, Unreadable> {
        if depth > MAX_DEPTH {
            return Err(refuse("nested too deep, or within itself"));
        }
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| refuse("too many values when its shared parts are written out"))?;
        Ok(match self.node(id)? {
            Node::Atom(value) => {
                if let Value::BigInt(digits) = value {
                    self.spend(digits.len())?;
                }
                value.clone()
            }
            Node::Str(text) => {
                self.spend(text.len())?;
                Value::Str(text.as_ref().to_owned())
            }
            Node::Bytes(octets) => {
                self.spend(octets.len())?;
                Value::Bytes(octets.to_vec())
            }
            Node::Bytearray(octets) => {
                self.spend(octets.len())?;
                known::bytearray(octets.to_vec())
            }
            Node::Global(class) => {
                self.spend(class.len())?;
                known::global(class)
            }
            Node::Tuple(items) => Value::Tuple(self.write_all(items, deadline, depth)?),
            Node::List(items, changed) => {
                in_time(*changed, deadline)?;
                Value::List(self.write_all(items, deadline, depth)?)
            }
            Node::Set(items, changed) => {
                in_time(*changed, deadline)?;
                Value::Set(self.write_all(items, deadline, depth)?)
            }
            Node::Dict(entries, changed) => {
                in_time(*changed, deadline)?;
                let mut written = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = self.write(*key, deadline, depth + 1)?;
                    written.push((key, self.write(*value, deadline, depth + 1)?));
                }
                keep_last(&mut written);
                Value::Map(written)
            }
            Node::Instance(instance) => self.write_instance(instance, deadline, depth)?,
        })
    }

    fn write_all(&mut self, items: &[Id], deadline: Time, depth: usize) -> Result<Vec<Value>, Unreadable> {
        items.iter().map(|item| self.write(*item, deadline, depth + 1)).collect()
    }

    fn write_timed(&mut self, parts: &[(Id, Time)], deadline: Time, depth: usize) -> Result<Vec<Value>, Unreadable> {
        let mut written = Vec::with_capacity(parts.len());
        for (part, time) in parts {
            in_time(*time, deadline)?;
            written.push(self.write(*part, *time, depth + 1)?);
        }
        Ok(written)
    }

    fn write_instance(&mut self, instance: &Instance, deadline: Time, depth: usize) -> Result<Value, Unreadable> {
        let class = self.write(instance.class, instance.made, depth + 1)?;
        let (Some(class), Node::Tuple(args)) = (known::as_global(&class), self.node(instance.args)?) else {
            return Err(refuse("a call of what is not a plain class or function"));
        };
        let mut parts = known::Parts {
            how: instance.how,
            class: class.to_string(),
            args: self.write_all(args, instance.made, depth)?,
            kwargs: Vec::new(),
            states: self.write_timed(&instance.states, deadline, depth)?,
            items: self.write_timed(&instance.items, deadline, depth)?,
            entries: Vec::with_capacity(instance.entries.len()),
        };
        if let Some(kwargs) = instance.kwargs
            && let Value::Map(kwargs) = self.write(kwargs, instance.made, depth + 1)?
        {
            parts.kwargs = kwargs;
        }
        for (key, value, time) in &instance.entries {
            in_time(*time, deadline)?;
            let key = self.write(*key, *time, depth + 1)?;
            parts.entries.push((key, self.write(*value, *time, depth + 1)?));
        }
        parts.into_value()
    }
}

fn in_time(changed: Time, deadline: Time) -> Result<(), Unreadable> {
    if changed > deadline {
        return Err(refuse("an argument that changes after the call"));
    }
    Ok(())
}
