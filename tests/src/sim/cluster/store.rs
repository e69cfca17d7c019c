//! The object store: keeps what it is given, and lies about it. Errors before and after their effect, answers that
//! never come, and requests that take effect long after whoever sent them has given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::{Body, Message, Object, Shared, StoreFaults};
use super::node::Node;
use crate::sim::chance::Chance;
use crate::sim::world::Output;

type Out = Vec<Output<Node>>;

#[derive(Debug)]
pub(super) struct Store {
    me: usize,
    objects: Shared<BTreeMap<String, Arc<Object>>>,
    pub(super) faults: StoreFaults,
    chance: Chance,
    /// By when they are carried out, then in the order they came.
    later: BTreeMap<(i64, u64), Message>,
    came: u64,
}

impl Store {
    pub(super) fn start(me: usize, objects: Shared<BTreeMap<String, Arc<Object>>>, seed: u64) -> Self {
        Self {
            me,
            objects,
            faults: StoreFaults::default(),
            chance: Chance::new(seed),
            later: BTreeMap::new(),
            came: 0,
        }
    }

    pub(super) fn receive(&mut self, now: i64, message: Message) {
        let after = self.chance.between(0..self.faults.slow.max(1));
        self.came += 1;
        self.later.insert((now + after, self.came), message);
    }

    pub(super) fn wake(&mut self, now: i64, out: &mut Out) {
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now) {
            let message = first.remove();
            self.carry_out(message, out);
        }
    }

    pub(super) fn wake_at(&self) -> i64 {
        self.later.keys().next().map_or(i64::MAX, |(at, _)| *at)
    }

    fn carry_out(&mut self, message: Message, out: &mut Out) {
        let Message { from, body } = message;
        let fails = self.chance.percent(self.faults.before_effect);
        let lies = self.chance.percent(self.faults.after_effect);
        let hangs = self.chance.percent(self.faults.hung);
        let answer = match body {
            Body::Put { number, .. } if fails => Body::PutDone { number, done: false },
            Body::Put { number, key, object } => {
                self.objects.get().insert(key, object);
                Body::PutDone { number, done: !lies }
            }
            Body::Get { number, key } => {
                let object = self.objects.get().get(&key).filter(|_| !fails).cloned();
                Body::Got { number, object }
            }
            Body::Sweep {
                partition,
                keep,
                below,
            } => {
                let goes = |key: &String| {
                    let mine = key.strip_prefix(&format!("{partition}/"));
                    let epoch = mine.and_then(|rest| rest.split('/').next()?.parse::<i32>().ok());
                    epoch.is_some_and(|epoch| epoch < below) && !keep.contains(key)
                };
                self.objects.get().retain(|key, _| !goes(key));
                return;
            }
            _ => return,
        };
        if !hangs {
            let message = Message {
                from: self.me,
                body: answer,
            };
            out.push(Output::Send { to: from, message });
        }
    }
}
