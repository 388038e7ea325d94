//! What a match becomes: the choice of an emit, and the patch for it.

use planish_ir::{
    Attr, Attrs, Numerics, OpName, Opsets, Patch, Ref, Type, ValueId,
    infer::{Fact, prospect},
};

use super::{
    ast::{Defined, Emit, EmitLine, Expr, Kind, OpExpr, Slot},
    eval::Eval,
    interior::Interior,
    literal,
    value::{Trouble, Val},
};

/// A value that an emit made or uses, and what is known of it.
#[derive(Clone)]
struct Made {
    value: Option<Ref>,
    fact: Option<Fact>,
}

/// The patch for a match that the conditions accepted, or the reasons of all emits.
pub(super) fn replace(eval: &Eval<'_>, interior: &Interior) -> Result<Patch, String> {
    let mut reasons: Vec<String> = Vec::new();
    for emit in &eval.rule.emits {
        if !emit.targets.is_empty() && !emit.targets.contains(&eval.cx.target) {
            continue;
        }
        if let Some(when) = &emit.when {
            match eval.eval(&when.test).and_then(|v| v.bool()) {
                Ok(true) => {}
                Ok(false) => {
                    reasons.push(eval.text(&when.reason));
                    continue;
                }
                Err(t) => {
                    reasons.push(trouble(&when.text, t));
                    continue;
                }
            }
        }
        let mut builder = Builder::new(eval, emit, interior);
        match builder.run() {
            Ok(()) => return Ok(builder.patch),
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        reasons.push(format!("it has no form for target {}", eval.cx.target));
    }
    reasons.dedup();
    Err(reasons.join("; "))
}

/// Why a condition does not count as met.
pub(super) fn trouble(text: &str, t: Trouble) -> String {
    match t {
        Trouble::Unknown => format!("not known whether {text}"),
        Trouble::Wrong(message) => format!("not known whether {text}: {message}"),
    }
}

struct Builder<'a> {
    eval: &'a Eval<'a>,
    emit: &'a Emit,
    interior: &'a Interior,
    patch: Patch,
    /// Imported, or to be imported by the patch.
    opsets: Opsets,
    lines: Vec<Vec<Made>>,
    /// Constants of `let`, once they are used.
    constants: Vec<(usize, Made)>,
    /// Values of the graph that the new nodes read.
    reads: Vec<ValueId>,
    nodes: usize,
    macs: Option<u64>,
}

impl<'a> Builder<'a> {
    fn new(eval: &'a Eval<'a>, emit: &'a Emit, interior: &'a Interior) -> Builder<'a> {
        let numerics: Numerics = emit.numerics.unwrap_or(eval.rule.numerics);
        let root = interior.root(eval.cx.graph);
        Builder {
            eval,
            emit,
            interior,
            patch: Patch::new(numerics, format!("{}: {root:?}", eval.rule.name)),
            opsets: eval.cx.opsets.clone(),
            lines: Vec::new(),
            constants: Vec::new(),
            reads: Vec::new(),
            nodes: 0,
            macs: Some(0),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut results = Vec::new();
        for line in &self.emit.lines {
            let made = self.line(line)?;
            for (output, made) in line.outputs.iter().zip(&made) {
                if let Defined::Result(slot) = output {
                    results.push((*slot, made.clone()));
                }
            }
            self.lines.push(made);
        }
        for (slot, made) in &results {
            self.result(*slot, made)?;
        }
        let replaced: Vec<ValueId> = results.iter().filter_map(|(slot, _)| self.eval.found.value(*slot)).collect();
        self.interior.accepts_inputs(self.eval, &self.reads)?;
        self.pays(&replaced)
    }

    fn line(&mut self, line: &EmitLine) -> Result<Vec<Made>, String> {
        match &line.value.kind {
            Kind::Op(op) => self.node(op, &line.outputs),
            _ => Ok(vec![self.operand(&line.value)?]),
        }
    }

    /// A result has to have the type of what it replaces.
    fn result(&mut self, slot: Slot, made: &Made) -> Result<(), String> {
        let Some(old) = self.eval.found.value(slot) else { return Ok(()) };
        let name = self.eval.cx.graph.name_of(old);
        let Some(new) = made.value else { return Err(format!("{name:?} would be left out")) };
        let before = self.eval.cx.facts.ty(old);
        let after = made.fact.as_ref().and_then(|f| f.ty.as_ref());
        if let (Some(b), Some(a)) = (before, after)
            && !b.compatible(a)
        {
            return Err(format!("{name:?} is {b}, but would become {a}"));
        }
        let proven = match (before.and_then(Type::shape), after.and_then(Type::shape)) {
            (Some(b), Some(a)) => b.len() == a.len() && b.iter().zip(a).all(|(x, y)| x.same(y)),
            _ => false,
        };
        if !proven && self.eval.found.stretches {
            return Err(format!("not known whether a constant stretches the shape of {name:?}"));
        }
        self.patch.replace(old, new);
        Ok(())
    }

    /// Fewer nodes, or fewer multiply-accumulates.
    fn pays(&self, replaced: &[ValueId]) -> Result<(), String> {
        let (removed, macs) = self.interior.removed(self.eval, replaced, &self.reads);
        let cheaper = matches!((self.macs, macs), (Some(new), Some(old)) if new < old);
        let dearer = matches!((self.macs, macs), (Some(new), Some(old)) if new > old);
        if cheaper || (self.nodes < removed && !dearer) {
            return Ok(());
        }
        Err(format!("it would not pay: nodes before {removed}, after {}", self.nodes))
    }

    fn operand(&mut self, e: &Expr) -> Result<Made, String> {
        match &e.kind {
            Kind::Absent => Ok(Made { value: None, fact: None }),
            Kind::Op(op) => {
                let made = self.node(op, &[])?;
                made.into_iter().next().ok_or_else(|| "an operator makes nothing".to_owned())
            }
            Kind::New(line, output) => {
                let made = self.lines.get(*line).and_then(|l| l.get(*output)).cloned();
                made.ok_or_else(|| "a value is used before it is made".to_owned())
            }
            Kind::Let(i) => match self.constants.iter().find(|(n, _)| n == i) {
                Some((_, made)) => Ok(made.clone()),
                None => {
                    let name = &self.eval.rule.lets[*i].name;
                    let made = self.evaluated(e, name)?;
                    self.constants.push((*i, made.clone()));
                    Ok(made)
                }
            },
            _ => self.evaluated(e, "constant"),
        }
    }

    fn evaluated(&mut self, e: &Expr, name: &str) -> Result<Made, String> {
        match self.eval.eval(e) {
            Ok(Val::Value(Some(v))) => Ok(self.existing(v)),
            Ok(Val::Value(None)) => Ok(Made { value: None, fact: None }),
            Ok(Val::Tensor(t)) => {
                let fact = Fact::constant(&t);
                let name = format!("{}_{name}", self.interior.root(self.eval.cx.graph));
                Ok(Made { value: Some(self.patch.constant(name, t)), fact: Some(fact) })
            }
            Ok(other) => Err(format!("{other} needs an element type to be an input, as in `{other}:float`")),
            Err(Trouble::Unknown) => Err("a constant of the result is not known".to_owned()),
            Err(Trouble::Wrong(message)) => Err(message),
        }
    }

    fn existing(&mut self, v: ValueId) -> Made {
        self.reads.push(v);
        let fact = match literal::constant(self.eval.cx.graph, v) {
            Some(t) => Fact::constant(t),
            None => self.eval.cx.facts.fact(v).clone(),
        };
        Made { value: Some(v.into()), fact: Some(fact) }
    }

    fn node(&mut self, op: &OpExpr, outputs: &[Defined]) -> Result<Vec<Made>, String> {
        let name = &op.op;
        if !name.domain.is_empty() {
            self.patch.import(name.domain.clone(), 1);
            self.opsets.entry(name.domain.clone()).or_insert(1);
        } else if !self.opsets.contains_key("") {
            return Err("the model does not import ai.onnx".to_owned());
        }
        let mut inputs: Vec<Made> = Vec::new();
        for e in &op.inputs {
            match self.eval.eval(e) {
                // A list of inputs that the match left open.
                Ok(Val::List(l)) if l.iter().all(|v| matches!(v, Val::Value(_))) && !l.is_empty() => {
                    for v in l {
                        let Val::Value(v) = v else { continue };
                        inputs.push(match v {
                            Some(v) => self.existing(v),
                            None => Made { value: None, fact: None },
                        });
                    }
                }
                _ => inputs.push(self.operand(e)?),
            }
        }
        let attrs = self.attributes(op, &mut inputs)?;
        while inputs.last().is_some_and(|i| i.value.is_none()) {
            inputs.pop();
        }
        let facts: Vec<Option<Fact>> =
            inputs.iter().map(|i| i.value.map(|_| i.fact.clone().unwrap_or_default())).collect();
        let count = outputs.len().max(1);
        let known = prospect(name, &attrs, &facts, count, &self.opsets)?;
        self.macs = self.macs.zip(known.macs).and_then(|(a, b)| a.checked_add(b));
        self.nodes += 1;
        let refs = self.add(name, attrs, &inputs, outputs, &known.outputs);
        Ok(refs.into_iter().zip(known.outputs).map(|(r, f)| Made { value: Some(r), fact: Some(f) }).collect())
    }

    fn add(&mut self, op: &OpName, attrs: Attrs, inputs: &[Made], outputs: &[Defined], known: &[Fact]) -> Vec<Ref> {
        let (graph, root) = (self.eval.cx.graph, self.interior.root(self.eval.cx.graph));
        let is_root = outputs.iter().any(|o| matches!(o, Defined::Result(s) if self.interior.is_root_output(*s)));
        let named = |i: usize| match outputs.get(i) {
            Some(Defined::Result(slot)) => self.eval.found.value(*slot).map(|v| graph.name_of(v)),
            Some(Defined::New { name, .. }) => Some(format!("{root}_{name}")),
            Some(Defined::Nothing) | None => None,
        };
        let output = |(i, fact): (usize, &Fact)| {
            let left_out = matches!(outputs.get(i), Some(Defined::Nothing));
            let name = || named(i).unwrap_or_else(|| format!("{root}_{}", op.name));
            (!left_out).then(|| (name(), fact.ty.clone()))
        };
        let names: Vec<_> = known.iter().enumerate().map(output).collect();
        let line = outputs.iter().find_map(|o| match o {
            Defined::New { name, .. } => Some(name.clone()),
            Defined::Result(_) | Defined::Nothing => None,
        });
        // ONNX Runtime refuses models in which two nodes have one name.
        let own = line.unwrap_or_else(|| match self.nodes {
            1 => op.name.clone(),
            n => format!("{}_{n}", op.name),
        });
        let node = self.patch.node(op.clone(), inputs.iter().map(|i| i.value)).attrs(attrs);
        let node = match (is_root, graph.node(self.interior.root_id)) {
            (true, _) => node.in_place_of(self.interior.root_id),
            (false, Some(n)) if !n.name.is_empty() => node.name(format!("{}/{own}", n.name)),
            _ => node,
        };
        node.optional_outputs(names)
    }

    /// Attributes; those that are inputs in the model's operator set become constants.
    fn attributes(&mut self, op: &OpExpr, inputs: &mut Vec<Made>) -> Result<Attrs, String> {
        use planish_ir::op::attributes::{Unset, moved, unset};
        let opset = self.opsets.get(&op.op.domain).copied().unwrap_or(1);
        let mut attrs = Attrs::new();
        for (name, _, e) in &op.attrs {
            let value = match self.eval.eval(e) {
                Ok(v) => v,
                Err(Trouble::Unknown) => return Err(format!("the attribute {name} of {} is not known", op.op)),
                Err(Trouble::Wrong(message)) => return Err(message),
            };
            let moved = moved(&op.op.domain, &op.op.name, name).filter(|m| opset >= m.since);
            let is_float = matches!(unset(&op.op.domain, &op.op.name, name, opset), Some(Unset::Float(_)));
            let Some(moved) = moved else {
                attrs.set(name.clone(), attribute(&value, is_float).ok_or_else(|| format!("{value} is no {name}"))?);
                continue;
            };
            let first = inputs.first().and_then(|i| i.fact.as_ref()).and_then(Fact::dtype);
            let dtype = match (op.op.name.as_str(), first) {
                ("Clip", Some(dtype)) => dtype,
                ("Pad", Some(dtype)) if *name == "value" => dtype,
                ("Clip", None) => return Err("the element type is not known".to_owned()),
                _ => planish_ir::DType::I64,
            };
            let tensor = super::arithmetic::typed(&value, dtype).map_err(|t| trouble(name, t))?;
            let fact = Fact::constant(&tensor);
            let hint = format!("{}_{name}", self.interior.root(self.eval.cx.graph));
            let made = Made { value: Some(self.patch.constant(hint, tensor)), fact: Some(fact) };
            while inputs.len() <= moved.slot {
                inputs.push(Made { value: None, fact: None });
            }
            if let Some(slot) = inputs.get_mut(moved.slot) {
                *slot = made;
            }
        }
        Ok(attrs)
    }
}

/// A value of the language as an attribute.
fn attribute(v: &Val, is_float: bool) -> Option<Attr> {
    let float = |v: &Val| v.float().ok().map(|x| x as f32).filter(|x| x.is_finite());
    Some(match v {
        Val::Int(_) if is_float => Attr::Float(float(v)?),
        Val::Int(i) => Attr::Int(*i),
        Val::Bool(b) => Attr::Int(i64::from(*b)),
        Val::Float(_) => Attr::Float(float(v)?),
        Val::Text(t) => Attr::from(t.as_str()),
        Val::Type(t) => Attr::Int(t.code().into()),
        Val::Tensor(t) => Attr::Tensor(t.clone()),
        Val::List(l) if l.iter().any(|v| matches!(v, Val::Float(_))) => {
            Attr::Floats(l.iter().map(float).collect::<Option<_>>()?)
        }
        Val::List(_) => Attr::Ints(v.int_list().ok()?),
        Val::Dim(_) | Val::Value(_) => return None,
    })
}
