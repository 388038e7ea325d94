//! Evaluates expressions on what a match found.
//!
//! What is not known stays not known: a condition is met only if it provably holds.

use std::cell::RefCell;

use planish_ir::{DType, Dim, Tensor, Type, ValueId, infer::Fact, op};

use super::{
    arithmetic,
    ast::{Expr, Kind, Operator, Piece, Reason, RuleDef},
    function::Function,
    literal,
    matcher::{Bound, Found},
    value::{Evaluated, Trouble, Val, wrong},
};
use crate::RuleContext;

/// Longest list of a constant's elements.
const MAX_VALUES: u64 = 4096;
/// Longest list that `repeat` makes.
const MAX_REPEATED: usize = 1 << 16;

/// A rule, a match, and the graph around it.
pub(super) struct Eval<'a> {
    pub(super) cx: &'a RuleContext<'a>,
    pub(super) rule: &'a RuleDef,
    pub(super) found: &'a Found,
    /// What `let` defined, once it was asked for.
    lets: RefCell<Vec<Option<Evaluated<Val>>>>,
}

impl<'a> Eval<'a> {
    pub(super) fn new(cx: &'a RuleContext<'a>, rule: &'a RuleDef, found: &'a Found) -> Eval<'a> {
        Eval { cx, rule, found, lets: RefCell::new(vec![None; rule.lets.len()]) }
    }

    /// The text of a reason; what is not known in it is a question mark.
    pub(super) fn text(&self, reason: &Reason) -> String {
        let piece = |p: &Piece| match p {
            Piece::Text(t) => t.clone(),
            Piece::Expr(e) => match self.eval(e) {
                Ok(Val::Value(Some(v))) => format!("{:?}", self.cx.graph.name_of(v)),
                Ok(v) => v.to_string(),
                Err(_) => "?".to_owned(),
            },
        };
        reason.iter().map(piece).collect()
    }

    pub(super) fn eval(&self, e: &Expr) -> Evaluated<Val> {
        Ok(match &e.kind {
            Kind::Int(i) => Val::Int(*i),
            Kind::Float(x) => Val::Float(*x),
            Kind::Bool(b) => Val::Bool(*b),
            Kind::Text(t) => Val::Text(t.clone()),
            Kind::Type(t) => Val::Type(*t),
            Kind::List(l) => Val::List(l.iter().map(|e| self.eval(e)).collect::<Evaluated<_>>()?),
            Kind::Value(slot) => match &self.found.values[*slot] {
                Some(Bound::Value(v)) => Val::Value(*v),
                Some(Bound::List(l)) => Val::List(l.iter().map(|v| Val::Value(*v)).collect()),
                None => Val::Value(None),
            },
            Kind::Let(i) => return self.definition(*i),
            Kind::Attr(i) => self.found.attrs[*i].clone().ok_or(Trouble::Unknown)?,
            Kind::Opset => Val::Int(self.cx.opset()),
            Kind::Target => Val::Text(self.cx.target.name().to_owned()),
            Kind::Not(a) => Val::Bool(!self.eval(a)?.bool()?),
            Kind::Neg(a) => arithmetic::binary(Operator::Sub, &Val::Int(0), &self.number(a)?)?,
            Kind::Binary(operator, a, b) => return self.binary(*operator, a, b),
            Kind::At(list, i) => {
                let (list, i) = (self.eval(list)?, self.eval(i)?.int()?);
                let list = list.list()?;
                let at = if i < 0 { i + list.len() as i64 } else { i };
                match usize::try_from(at).ok().and_then(|at| list.get(at)) {
                    Some(v) => v.clone(),
                    None => return wrong(format!("a list of {} has no element {i}", list.len())),
                }
            }
            Kind::Typed(value, ty) => {
                let Val::Type(dtype) = self.eval(ty)? else { return wrong("what follows `:` is no element type") };
                Val::Tensor(arithmetic::typed(&self.eval(value)?, dtype)?)
            }
            Kind::Call(function, arguments) => return self.call(*function, arguments),
            Kind::Op(_) | Kind::New(..) | Kind::Absent => return wrong("a node has no value here"),
        })
    }

    fn definition(&self, i: usize) -> Evaluated<Val> {
        if let Some(known) = &self.lets.borrow()[i] {
            return known.clone();
        }
        let value = self.eval(&self.rule.lets[i].value);
        self.lets.borrow_mut()[i] = Some(value.clone());
        value
    }

    fn binary(&self, operator: Operator, a: &Expr, b: &Expr) -> Evaluated<Val> {
        let decisive = match operator {
            Operator::And => false,
            Operator::Or => true,
            _ => return arithmetic::binary(operator, &self.number(a)?, &self.number(b)?),
        };
        let truth = |e: &Expr| self.eval(e).and_then(|v| v.bool());
        let first = truth(a);
        if first == Ok(decisive) {
            return Ok(Val::Bool(decisive));
        }
        let second = truth(b);
        if second == Ok(decisive) {
            return Ok(Val::Bool(decisive));
        }
        first?;
        second?;
        Ok(Val::Bool(!decisive))
    }

    /// A value that can be calculated with.
    fn number(&self, e: &Expr) -> Evaluated<Val> {
        match self.eval(e)? {
            Val::Value(_) => wrong("a value of the graph is no number; `value(c)` is that of a constant"),
            v => Ok(v),
        }
    }

    fn value(&self, e: &Expr) -> Evaluated<ValueId> {
        match self.eval(e)? {
            Val::Value(Some(v)) => Ok(v),
            Val::Value(None) => wrong("a value is left out"),
            other => wrong(format!("{other} is no value of the graph")),
        }
    }

    fn fact(&self, e: &Expr) -> Evaluated<&'a Fact> {
        Ok(self.cx.facts.fact(self.value(e)?))
    }

    fn shape(&self, e: &Expr) -> Evaluated<&'a [Dim]> {
        self.fact(e)?.shape().ok_or(Trouble::Unknown)
    }

    /// A constant of the graph, or one that the rule computed.
    pub(super) fn tensor(&self, e: &Expr) -> Evaluated<Tensor> {
        match self.eval(e)? {
            Val::Tensor(t) => Ok(t),
            Val::Value(Some(v)) => match literal::constant(self.cx.graph, v) {
                Some(t) => Ok(t.clone()),
                None => wrong(format!("{:?} is no constant", self.cx.graph.name_of(v))),
            },
            other => wrong(format!("{other} is no constant")),
        }
    }

    fn is_tensor(&self, e: &Expr) -> bool {
        matches!(self.eval(e), Ok(Val::Tensor(_) | Val::Value(_)))
    }

    fn call(&self, function: Function, arguments: &[Expr]) -> Evaluated<Val> {
        let [a, rest @ ..] = arguments else { return wrong("an argument is missing") };
        let b = || rest.first().map_or_else(|| wrong("an argument is missing"), Ok);
        Ok(match function {
            Function::Rank => Val::Int(self.shape(a)?.len() as i64),
            Function::Dim => {
                let (shape, i) = (self.shape(a)?, self.eval(b()?)?.int()?);
                let at = if i < 0 { i + shape.len() as i64 } else { i };
                match usize::try_from(at).ok().and_then(|at| shape.get(at)) {
                    Some(d) => Val::size(d)?,
                    None => return wrong(format!("there is no axis {i} of {}", shape.len())),
                }
            }
            Function::Shape => Val::List(self.shape(a)?.iter().map(Val::size).collect::<Evaluated<_>>()?),
            Function::Dtype => Val::Type(self.fact(a)?.dtype().ok_or(Trouble::Unknown)?),
            Function::IsFloat => {
                let dtype = self.fact(a)?.dtype().ok_or(Trouble::Unknown)?;
                Val::Bool(matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16))
            }
            Function::IsConstant => Val::Bool(literal::constant(self.cx.graph, self.value(a)?).is_some()),
            Function::Scalar => arithmetic::uniform(&self.tensor(a)?)?,
            Function::Values => {
                let t = self.tensor(a)?;
                if t.elements() > MAX_VALUES {
                    return Err(Trouble::Unknown);
                }
                Val::List(arithmetic::elements(&t)?)
            }
            Function::Elements => match self.is_tensor(a).then(|| self.tensor(a)) {
                Some(Ok(t)) => Val::Int(t.elements() as i64),
                _ => {
                    let count = self.shape(a)?.iter().fold(Dim::Known(1), |n, d| n.mul(d));
                    Val::size(&count)?
                }
            },
            Function::SameShape => {
                let (s, t) = (self.shape(a)?, self.shape(b()?)?);
                same_shape(s, t)?
            }
            Function::SameType => {
                let known = |f: &Fact| f.ty.as_ref().and_then(Type::dtype).ok_or(Trouble::Unknown);
                Val::Bool(known(self.fact(a)?)? == known(self.fact(b()?)?)?)
            }
            Function::BroadcastsTo => broadcasts(self.shape(a)?, self.shape(b()?)?)?,
            Function::Readers => Val::Int(self.cx.graph.users(self.value(a)?).len() as i64),
            Function::MadeBy => {
                let Val::Text(name) = self.eval(b()?)? else { return wrong("`made_by` needs the name of an operator") };
                let producer = self.cx.graph.producer(self.value(a)?);
                Val::Bool(producer.is_some_and(|(_, n)| op::of(n).is_some() && n.op.to_string() == name))
            }
            Function::LastAxis | Function::LastAxes => {
                let rank = self.shape(b()?)?.len() as i64;
                let axes = self.eval(a)?.int_list()?;
                let mut from_end: Vec<i64> = axes.iter().map(|&i| if i < 0 { i } else { i - rank }).collect();
                from_end.sort_unstable();
                let count = from_end.len() as i64;
                let are_last = from_end.iter().zip(-count..).all(|(&a, b)| a == b) && count > 0;
                Val::Bool(are_last && (function == Function::LastAxes || count == 1))
            }
            Function::Length => Val::Int(self.eval(a)?.list()?.len() as i64),
            Function::Product => {
                let list = self.eval(a)?;
                list.list()?.iter().try_fold(Val::Int(1), |p, v| arithmetic::binary(Operator::Mul, &p, v))?
            }
            Function::Repeat => {
                let (number, count) = (self.number(a)?, self.eval(b()?)?.int()?);
                match usize::try_from(count) {
                    Ok(count) if count <= MAX_REPEATED => Val::List(vec![number; count]),
                    _ => return wrong(format!("a list cannot have {count} elements")),
                }
            }
            Function::Abs => match self.number(a)? {
                Val::Int(i) => Val::Int(i.checked_abs().ok_or(Trouble::Unknown)?),
                v => Val::Float(v.float()?.abs()),
            },
            Function::Min | Function::Max => {
                let (a, b) = (self.number(a)?, self.number(b()?)?);
                let first = arithmetic::binary(Operator::Less, &a, &b)?.bool()? == (function == Function::Min);
                if first { a } else { b }
            }
            Function::Transpose => Val::Tensor(arithmetic::transpose(&self.tensor(a)?, &self.eval(b()?)?.int_list()?)?),
            Function::Reshape => Val::Tensor(arithmetic::reshape(&self.tensor(a)?, &self.eval(b()?)?.int_list()?)?),
            Function::Concat => {
                let Some((axis, all)) = arguments.split_last() else { return wrong("an axis is missing") };
                let all = all.iter().map(|e| self.tensor(e)).collect::<Evaluated<Vec<_>>>()?;
                Val::Tensor(arithmetic::concat(&all, self.eval(axis)?.int()?)?)
            }
            Function::Cast => {
                let Val::Type(dtype) = self.eval(b()?)? else { return wrong("`cast` needs an element type") };
                Val::Tensor(arithmetic::cast(&self.tensor(a)?, dtype)?)
            }
            Function::Add | Function::Sub | Function::Mul | Function::Div => {
                let operator = match function {
                    Function::Add => Operator::Add,
                    Function::Sub => Operator::Sub,
                    Function::Mul => Operator::Mul,
                    _ => Operator::Div,
                };
                let b = b()?;
                match (self.is_tensor(a), self.is_tensor(b)) {
                    (false, false) => arithmetic::binary(operator, &self.number(a)?, &self.number(b)?)?,
                    (true, true) => Val::Tensor(arithmetic::combine(operator, &self.tensor(a)?, &self.tensor(b)?)?),
                    (true, false) => {
                        let t = self.tensor(a)?;
                        let number = arithmetic::typed(&self.number(b)?, t.dtype())?;
                        Val::Tensor(arithmetic::combine(operator, &t, &number)?)
                    }
                    (false, true) => {
                        let t = self.tensor(b)?;
                        let number = arithmetic::typed(&self.number(a)?, t.dtype())?;
                        Val::Tensor(arithmetic::combine(operator, &number, &t)?)
                    }
                }
            }
            Function::Neg | Function::Sqrt | Function::Reciprocal => {
                let f: fn(f64) -> f64 = match function {
                    Function::Neg => |x| -x,
                    Function::Sqrt => f64::sqrt,
                    _ => f64::recip,
                };
                match self.is_tensor(a) {
                    true => Val::Tensor(arithmetic::map(&self.tensor(a)?, f)?),
                    false => Val::Float(f(self.number(a)?.float()?)),
                }
            }
        })
    }
}

/// True if all sizes are provably equal, false if some provably are not.
fn same_shape(a: &[Dim], b: &[Dim]) -> Evaluated<Val> {
    if a.len() != b.len() || a.iter().zip(b).any(|(x, y)| !x.compatible(y)) {
        return Ok(Val::Bool(false));
    }
    if a.iter().zip(b).all(|(x, y)| x.same(y)) { Ok(Val::Bool(true)) } else { Err(Trouble::Unknown) }
}

fn broadcasts(a: &[Dim], to: &[Dim]) -> Evaluated<Val> {
    let Some(lead) = to.len().checked_sub(a.len()) else { return Ok(Val::Bool(false)) };
    let mut known = true;
    for (x, y) in a.iter().zip(&to[lead..]) {
        match (x.known(), y.known()) {
            _ if x.same(y) || x.known() == Some(1) => {}
            (Some(_), Some(_)) => return Ok(Val::Bool(false)),
            _ => known = false,
        }
    }
    if known { Ok(Val::Bool(true)) } else { Err(Trouble::Unknown) }
}
