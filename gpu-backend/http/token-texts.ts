// How tokens are written in answers with log-probabilities.
import type { Text } from '../text/tokenizer.ts'

export interface TokenText {
  /** The token's characters; `bytes:\xe2\x80` where it is no whole number of them. */
  readonly token: string
  readonly bytes: number[] | null
}

export type TokenTexts = (id: number) => TokenText

export function tokenTexts({ tokens, decode }: Text): TokenTexts {
  return (id) => {
    const bytes = tokens?.bytes(id)
    if (bytes === undefined) return { token: decode([id]), bytes: null }
    return { token: textOf(bytes), bytes: [...bytes] }
  }
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
  }
}
