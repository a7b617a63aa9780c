// What an answer may be kept to, and who keeps it: plain types, so that a page's engine reaches no grammar of Node's.
import type { Allowed } from './sampler.ts'

/** Checked before: a schema within the subset that the grammar keeps to. */
export type Constraint =
  | { readonly kind: 'object' }
  | { readonly kind: 'schema'; readonly schema: string }
  /** One call of one of these functions, in the form of `<tool_call>`. */
  | { readonly kind: 'call'; readonly functions: readonly { readonly name: string; readonly schema: string }[] }

export interface GrammarRow {
  /** Finds out what may follow; then `allowed` is it. */
  prepare(): Promise<void>
  readonly allowed: Allowed
  accept(id: number): void
  close(): void
}

export interface Grammars {
  /** Throws `request_invalid`. */
  open(constraint: Constraint): Promise<GrammarRow>
}
