//! Names across nested graphs: inside a subgraph, a name must not hide one around it that the subgraph may capture.

use std::collections::HashSet;

use crate::{Def, Graph};

/// The names that the graphs around use, outermost first.
#[derive(Default)]
pub(crate) struct Scopes {
    around: Vec<HashSet<String>>,
}

impl Scopes {
    /// Enters a graph; returns the name of each of its values by id. `captured` are the names that what it captures
    /// has outside; if they are not known, it keeps its names from inside.
    pub(crate) fn enter(&mut self, g: &Graph, captured: Option<&[String]>) -> Vec<String> {
        let bound = g.values().next_back().map_or(0, |(id, _)| id.index() + 1);
        let mut names = vec![String::new(); bound];
        let hidden = |name: &str| self.around.iter().any(|s| s.contains(name));
        let mut added: HashSet<String> = HashSet::new();
        for (id, v) in g.values() {
            names[id.index()] = match (&v.def, captured) {
                (Def::Captured(k), Some(outside)) => outside.get(*k as usize).cloned().unwrap_or_default(),
                _ if !hidden(&v.name) => v.name.clone(),
                _ => {
                    let free = |n: &String| !hidden(n) && g.value_named(n).is_none() && !added.contains(n);
                    let name = (1u64..).map(|i| format!("{}_{i}", v.name)).find(free).unwrap_or_default();
                    added.insert(name.clone());
                    name
                }
            };
        }
        self.around.push(names.iter().cloned().collect());
        names
    }

    /// Leaves the innermost graph.
    pub(crate) fn leave(&mut self) {
        self.around.pop();
    }
}
