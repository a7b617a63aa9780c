// The text of one row: tokens in, text that may be sent out, and whether a stop string ended it.
import { Detokeniser } from './detokeniser.ts'
import { type Matched, StopMatcher } from './stops.ts'

export interface Writer {
  push(id: number): Matched
  /** The rest of the text, when a token or a limit ends the row. */
  end(): string
}

export type Decode = (ids: readonly number[]) => string

/** `decode` is undefined for an artifact without a tokenizer: then there are ids only. */
export function createWriter(
  decode: Decode | undefined,
  promptIds: readonly number[],
  stops: readonly string[],
): Writer {
  if (decode === undefined) return { push: () => ({ text: '', stopped: false }), end: () => '' }
  const detokeniser = new Detokeniser(decode, promptIds)
  const matcher = new StopMatcher(stops)
  return {
    push: (id) => matcher.push(detokeniser.push(id)),
    end() {
      const { text, stopped } = matcher.push(detokeniser.flush())
      return stopped ? text : text + matcher.flush()
    },
  }
}
