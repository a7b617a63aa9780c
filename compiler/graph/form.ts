// What a form of the graph decides: how it keeps its past, and which logits it gives.
import type { Decoder } from '../checkpoint/decoder.ts'
import type { GraphBuilder } from './builder.ts'
import type { Rows } from './rows.ts'

/** One layer's values after the rotary embedding. B rows, S tokens, H KV heads, G query heads a KV head, D head size. */
export interface Projections {
  /** [B, H, G·S, D], scaled. The heads that share a KV head are folded into rows, so K and V are not copied. */
  readonly q: string
  /** [B, H, S, D] */
  readonly k: string
  /** [B, H, S, D] */
  readonly v: string
}

/** How a form of the graph keeps its past and which logits it gives. */
export interface Form {
  readonly rows: Rows
  /** Only ONNX Runtime reads it: operators of its own take the place of several of the standard. */
  readonly fused: boolean
  /** Linears that read one value are one, where their weights are stored alike. */
  readonly joined: boolean
  /** [B, H, G·S, D]: softmax(q·Kᵀ)·V over past and new tokens. */
  attend(layer: number, projections: Projections): string
  /** Hidden states [B, S, hidden] → [n, hidden], those whose logits are wanted. */
  select(hidden: string): string
  /** Logits [n, vocab] → the output. */
  finish(logits: string): void
}

export type MakeForm = (builder: GraphBuilder, config: Decoder) => Form
