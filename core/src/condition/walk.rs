//! The direct parts of an expression, for whatever looks at all of it.

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};

/// Whether parts are inside each other more often than so. It looks no deeper than that.
pub(super) fn is_deeper_than(expression: &IdedExpr, depth: usize) -> bool {
    match depth.checked_sub(1) {
        Some(depth) => parts(&expression.expr).into_iter().any(|part| is_deeper_than(part, depth)),
        None => true,
    }
}

/// The direct parts of an expression.
pub(super) fn parts(expression: &Expr) -> Vec<&IdedExpr> {
    match expression {
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(entry_parts).collect(),
        Expr::Select(select) => vec![select.operand.as_ref()],
        Expr::Struct(structure) => structure.entries.iter().flat_map(entry_parts).collect(),
        Expr::Comprehension(looped) => {
            vec![&looped.iter_range, &looped.accu_init, &looped.loop_cond, &looped.loop_step, &looped.result]
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

/// [`parts`], to change them.
pub(super) fn parts_mut(expression: &mut Expr) -> Vec<&mut IdedExpr> {
    match expression {
        Expr::Call(call) => call.target.iter_mut().map(AsMut::as_mut).chain(&mut call.args).collect(),
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(map) => map.entries.iter_mut().flat_map(entry_parts_mut).collect(),
        Expr::Select(select) => vec![select.operand.as_mut()],
        Expr::Struct(structure) => structure.entries.iter_mut().flat_map(entry_parts_mut).collect(),
        Expr::Comprehension(looped) => vec![
            &mut looped.iter_range,
            &mut looped.accu_init,
            &mut looped.loop_cond,
            &mut looped.loop_step,
            &mut looped.result,
        ],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &IdedEntryExpr) -> Vec<&IdedExpr> {
    match &entry.expr {
        EntryExpr::MapEntry(pair) => vec![&pair.key, &pair.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

fn entry_parts_mut(entry: &mut IdedEntryExpr) -> Vec<&mut IdedExpr> {
    match &mut entry.expr {
        EntryExpr::MapEntry(pair) => vec![&mut pair.key, &mut pair.value],
        EntryExpr::StructField(field) => vec![&mut field.value],
    }
}
