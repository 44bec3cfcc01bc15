//! A reply as one JSON body.

use futures::StreamExt;

use super::Reply;
use crate::error::ApiError;
use crate::tokenize::Piece;

/// Waits for all choices; the first failure fails the request.
pub(super) async fn collect(mut reply: Reply) -> Result<Vec<u8>, ApiError> {
    let mut choices: Vec<Piece> = Vec::new();
    while let Some(piece) = reply.pieces.next().await {
        let piece = piece?;
        if let Some(end) = &piece.end {
            reply.tally.add(piece.choice, end);
        }
        if choices.len() <= piece.choice {
            choices.resize_with(piece.choice + 1, Piece::default);
        }
        join(&mut choices[piece.choice], piece);
    }
    let mut body = Vec::new();
    reply.head.open(&mut body);
    for (index, choice) in choices.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        reply.render.whole(choice, &mut body);
    }
    let usage = reply.tally.usage();
    reply.head.close(Some(Some(usage)), &mut body);
    Ok(body)
}

fn join(whole: &mut Piece, piece: Piece) {
    whole.choice = piece.choice;
    whole.prompt.extend(piece.prompt);
    whole.text.push_str(&piece.text);
    whole.tokens.extend(piece.tokens);
    whole.end = piece.end;
}
