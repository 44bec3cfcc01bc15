//! Conditions such as `p99(ttft)>1.1`.

use std::fmt;
use std::str::FromStr;

use super::quantity::{Quantity, Rate};
use crate::figures::{Metric, Statistic};

/// A quantity, and a bound: of the ratio B/A, or for `errors` of B's share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expression {
    pub quantity: Quantity,
    pub operator: Operator,
    pub bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("{0:?} has no comparison; write <, <=, > or >= and a number, as in p99(ttft)>1.1")]
    Operator(String),
    #[error("{0:?} is no number; write one behind the comparison, as in p99(ttft)>1.1")]
    Bound(String),
    #[error("{0:?} is no quantity; write p99(ttft), rate(output_tokens), cached or errors")]
    Quantity(String),
    #[error("{0:?} is not kept of a latency; there are mean, p50, p90, p95, p99, p99.9 and max")]
    Statistic(String),
    #[error("{0:?} is no latency; there are ttft, itl, gap, tpot, e2e and queueing")]
    Metric(String),
    #[error("{0:?} is no rate; there are requests, input_tokens, output_tokens and goodput")]
    Rate(String),
}

/// The longer before those they begin with.
const OPERATORS: [(&str, Operator); 4] = [
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Expression {
    pub fn holds(&self, value: f64) -> bool {
        match self.operator {
            Operator::Less => value < self.bound,
            Operator::AtMost => value <= self.bound,
            Operator::Greater => value > self.bound,
            Operator::AtLeast => value >= self.bound,
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Expression, ExpressionError> {
        let split = |(sign, operator): &(&str, Operator)| {
            let (quantity, bound) = text.split_once(sign)?;
            Some((quantity.trim(), *operator, bound.trim()))
        };
        let parts = OPERATORS.iter().find_map(split);
        let (quantity, operator, bound) =
            parts.ok_or_else(|| ExpressionError::Operator(text.to_owned()))?;
        let number: Option<f64> = bound.parse().ok().filter(|it: &f64| it.is_finite());
        Ok(Expression {
            quantity: quantity.parse()?,
            operator,
            bound: number.ok_or_else(|| ExpressionError::Bound(bound.to_owned()))?,
        })
    }
}

impl FromStr for Quantity {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Quantity, ExpressionError> {
        if text == "errors" {
            return Ok(Quantity::Errors);
        }
        if text == "cached" {
            return Ok(Quantity::Cached);
        }
        let inside = text.strip_suffix(')').and_then(|it| it.split_once('('));
        let (outer, inner) = inside.ok_or_else(|| ExpressionError::Quantity(text.to_owned()))?;
        let (outer, inner) = (outer.trim(), inner.trim());
        if outer == "rate" {
            let rate = Rate::ALL.into_iter().find(|it| it.name() == inner);
            let rate = rate.ok_or_else(|| ExpressionError::Rate(inner.to_owned()))?;
            return Ok(Quantity::Rate(rate));
        }
        let statistic = Statistic::ALL.into_iter().find(|it| it.name() == outer);
        let statistic = statistic.ok_or_else(|| ExpressionError::Statistic(outer.to_owned()))?;
        let metric = Metric::ALL.into_iter().find(|it| it.name() == inner);
        let metric = metric.ok_or_else(|| ExpressionError::Metric(inner.to_owned()))?;
        Ok(Quantity::Latency(metric, statistic))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS.iter().find(|it| it.1 == self.operator);
        let sign = sign.map_or("", |it| it.0);
        write!(f, "{}{sign}{}", self.quantity, self.bound)
    }
}
