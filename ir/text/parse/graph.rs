//! Graphs and nodes.

use std::collections::HashSet;

use planish_proto::onnx::{
    FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, ValueInfoProto,
};

use super::{Frame, Mention, Parser, Result, Token, ty};
use crate::onnx::MAX_DEPTH;

/// What stands in the `<…>` of a graph.
#[derive(Default)]
struct Entries {
    dense: Vec<TensorProto>,
    sparse: Vec<SparseTensorProto>,
    /// Types, or weights without a value; the nodes that follow tell them apart.
    bare: Vec<Bare>,
}

struct Bare {
    name: String,
    ty: Option<TypeProto>,
    at: usize,
    /// Initializers in front of it, whose order is kept.
    after: usize,
}

impl Parser<'_> {
    /// A graph after its name.
    pub(super) fn graph(&mut self, name: String) -> Result<GraphProto> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(self.error(self.start, format!("graphs are nested more than {MAX_DEPTH} deep")));
        }
        self.frames.push(Frame::default());
        let mut graph = GraphProto { name: Some(name), ..Default::default() };
        if self.token == Token::Mark('(') {
            self.inputs(&mut graph)?;
        }
        self.arrow()?;
        let outputs = self.typed_names()?;
        for (name, ty, at) in outputs {
            self.mention(&name, at, false);
            graph.output.push(info(name, ty));
        }
        let mut entries = Entries::default();
        if self.eat('<')? && !self.eat('>')? {
            self.entries(&mut entries)?;
        }
        graph.node = self.nodes()?;
        self.settle(entries, &mut graph)?;
        self.leave();
        Ok(graph)
    }

    /// Inputs, nodes and types of a function.
    pub(super) fn function_body(&mut self, function: &mut FunctionProto) -> Result<()> {
        self.frames.push(Frame::default());
        let mut typed = Vec::new();
        for (name, ty, at) in self.typed_names()? {
            self.mention(&name, at, true);
            typed.extend(ty.is_some().then(|| info(name.clone(), ty)));
            function.input.push(name);
        }
        self.arrow()?;
        for (name, ty, at) in self.typed_names()? {
            self.mention(&name, at, false);
            typed.extend(ty.is_some().then(|| info(name.clone(), ty)));
            function.output.push(name);
        }
        if self.eat('<')? && !self.eat('>')? {
            loop {
                let at = self.start;
                let ty = if self.at_type() { Some(self.ty()?) } else { None };
                let name = self.name("the type and name of a value")?;
                if self.token == Token::Mark('=') {
                    let message = format!("a function has no weights; make {name:?} with a `Constant` node");
                    return Err(self.error(at, message));
                }
                typed.push(info(name, ty));
                if !self.eat(',')? {
                    self.expect('>', "`,` or `>`")?;
                    break;
                }
            }
        }
        function.node = self.nodes()?;
        function.value_info = typed;
        self.leave();
        Ok(())
    }

    fn inputs(&mut self, graph: &mut GraphProto) -> Result<()> {
        self.expect('(', "`(`")?;
        if self.eat(')')? {
            return Ok(());
        }
        loop {
            let at = self.start;
            let ty = if self.at_type() { Some(self.ty()?) } else { None };
            let name = self.name("the type and name of an input")?;
            self.mention(&name, at, true);
            if self.eat('=')? {
                let of = ty.as_ref().ok_or_else(|| self.error(at, "a default needs a type before the name".into()))?;
                if ty::is_sparse(of) {
                    return Err(self.error(at, "the default of an input must be a dense tensor".into()));
                }
                graph.initializer.push(self.tensor(&name, of, at)?);
            }
            graph.input.push(info(name, ty));
            if !self.eat(',')? {
                return self.expect(')', "`,` or `)`");
            }
        }
    }

    /// `(float[N] x, y)`
    fn typed_names(&mut self) -> Result<Vec<(String, Option<TypeProto>, usize)>> {
        self.expect('(', "`(`")?;
        let mut all = Vec::new();
        if self.eat(')')? {
            return Ok(all);
        }
        loop {
            let ty = if self.at_type() { Some(self.ty()?) } else { None };
            let at = self.start;
            all.push((self.name("the type and name of a value")?, ty, at));
            if !self.eat(',')? {
                self.expect(')', "`,` or `)`")?;
                return Ok(all);
            }
        }
    }

    fn arrow(&mut self) -> Result<()> {
        self.expect('=', "`=>`")?;
        self.expect('>', "`=>`")
    }

    fn entries(&mut self, entries: &mut Entries) -> Result<()> {
        loop {
            let at = self.start;
            let ty = if self.at_type() { Some(self.ty()?) } else { None };
            let name = self.name("the type and name of a weight or value, or `>`")?;
            if self.eat('=')? {
                let ty =
                    ty.ok_or_else(|| self.error(at, format!("the weight {name:?} needs a type before its name")))?;
                self.mention(&name, at, true);
                match ty::is_sparse(&ty) {
                    true => entries.sparse.push(self.sparse(&name, &ty, at)?),
                    false => entries.dense.push(self.tensor(&name, &ty, at)?),
                }
            } else {
                self.frame().entries.insert(name.clone());
                entries.bare.push(Bare { name, ty, at, after: entries.dense.len() });
            }
            if !self.eat(',')? {
                return self.expect('>', "`,`, `=` or `>`");
            }
        }
    }

    /// Tells weights without a value from types, and fills them.
    fn settle(&mut self, entries: Entries, graph: &mut GraphProto) -> Result<()> {
        let mut dense = entries.dense.into_iter();
        let mut taken = 0;
        for Bare { name, ty, at, after } in entries.bare {
            graph.initializer.extend(dense.by_ref().take(after - taken));
            taken = after;
            if !self.is_weight(&name) {
                self.frame().entries.remove(&name);
                graph.value_info.push(info(name, ty));
                continue;
            }
            let Some(ty) = ty.filter(|ty| ty::is_sparse(ty) || ty::fixed(ty).is_some()) else {
                let message = format!(
                    "{name:?} is read, but neither an input nor a node makes it; \
                     if it is a weight without a value, it needs fixed sizes, as in `float[4,3]`"
                );
                return Err(self.error(at, message));
            };
            self.mentions.push(Mention { name: name.clone(), at, defines: true });
            let weight = self.left_out(&name, &ty, at)?;
            graph.initializer.push(weight);
        }
        graph.initializer.extend(dense);
        graph.sparse_initializer = entries.sparse;
        Ok(())
    }

    /// True if an entry without a value is a weight: something reads it, and nothing else makes it.
    fn is_weight(&self, name: &str) -> bool {
        let Some((here, around)) = self.frames.split_last() else { return false };
        let outside = || around.iter().any(|f| f.made.contains(name) || f.entries.contains(name));
        here.read.contains(name) && !here.made.contains(name) && !outside()
    }

    fn nodes(&mut self) -> Result<Vec<NodeProto>> {
        self.expect('{', "`{`")?;
        let mut nodes = Vec::new();
        while !self.eat('}')? {
            nodes.push(self.node()?);
        }
        Ok(nodes)
    }

    fn node(&mut self) -> Result<NodeProto> {
        let mut node = NodeProto::default();
        if self.eat('[')? {
            node.name = self.optional_name()?;
            self.expect(']', "the name of the node and `]`")?;
        }
        node.output = self.operands(true)?;
        self.expect('=', "the outputs of a node and `=`, or `}`")?;
        let (domain, op_type) = self.operator()?;
        node.domain = (!domain.is_empty()).then_some(domain);
        node.op_type = Some(op_type);
        if self.eat(':')? {
            node.overload = Some(self.name("an overload")?);
        }
        node.attribute = self.attributes()?;
        self.expect('(', "`(` and the inputs of the node")?;
        node.input = self.operands(false)?;
        self.expect(')', "`,` or `)`")?;
        if node.attribute.is_empty() {
            node.attribute = self.attributes()?;
        }
        Ok(node)
    }

    /// `com.microsoft.FusedConv`: the domain, which may be empty, and the operator.
    fn operator(&mut self) -> Result<(String, String)> {
        let mut domain = String::new();
        let mut last = self.name("an operator")?;
        while self.eat('.')? {
            if !domain.is_empty() {
                domain.push('.');
            }
            domain.push_str(&last);
            last = self.name("an operator")?;
        }
        Ok((domain, last))
    }

    /// Names separated by commas. One that is left out is `""`, or nothing in front of a comma.
    fn operands(&mut self, defines: bool) -> Result<Vec<String>> {
        let mut all = Vec::new();
        loop {
            let at = self.start;
            let name = match self.optional_name()? {
                Some(name) => name,
                None if self.token == Token::Mark(',') => String::new(),
                None => return Ok(all),
            };
            self.mention(&name, at, defines);
            all.push(name);
            if !self.eat(',')? {
                return Ok(all);
            }
        }
    }

    fn mention(&mut self, name: &str, at: usize, defines: bool) {
        if name.is_empty() {
            return;
        }
        self.mentions.push(Mention { name: name.to_owned(), at, defines });
        let frame = self.frame();
        let names = if defines { &mut frame.made } else { &mut frame.read };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
    }

    /// Leaves the innermost graph; what it reads and does not make, the graph around it reads.
    fn leave(&mut self) {
        let Some(Frame { made, entries, read }) = self.frames.pop() else { return };
        if let Some(around) = self.frames.last_mut() {
            let free: HashSet<String> =
                read.into_iter().filter(|n| !made.contains(n) && !entries.contains(n)).collect();
            around.read.extend(free);
        }
    }

    fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }
}

fn info(name: String, ty: Option<TypeProto>) -> ValueInfoProto {
    ValueInfoProto { name: Some(name), r#type: ty, ..Default::default() }
}
