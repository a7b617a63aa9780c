// What each token is in bytes: a token may be half a character, and a decoder may trim what stands at the start.
import { z } from 'zod'

export interface TokenBytes {
  readonly spelling: 'byte_level' | 'byte_fallback'
  /** The token as the file spells it, empty where it is no text but a mark such as `</s>`. */
  readonly spelt: readonly string[]
  /** Undefined for an id that has no token. Marks are their own name. */
  bytes(id: number): Uint8Array | undefined
}

const Decoder: z.ZodType<{ type: string; decoders?: { type: string }[] | undefined }> = z.looseObject({
  type: z.string(),
  decoders: z.array(z.looseObject({ type: z.string() })).optional(),
})
const Tokens = z.looseObject({ decoder: Decoder.nullish() })

/** `vocabulary` has the added tokens, `marks` are those that are no text. Undefined for a spelling that is not known. */
export function tokenBytes(
  file: unknown,
  vocabulary: ReadonlyMap<string, number>,
  marks: ReadonlySet<number>,
): TokenBytes | undefined {
  const decoder = Tokens.safeParse(file).data?.decoder
  const steps = decoder?.decoders?.map(({ type }) => type) ?? [decoder?.type]
  const spelling = steps.includes('ByteLevel')
    ? 'byte_level'
    : steps.includes('ByteFallback') || steps.includes('Metaspace')
      ? 'byte_fallback'
      : undefined
  if (spelling === undefined) return undefined
  const all: string[] = []
  for (const [token, id] of vocabulary) all[id] = token
  const named = Array.from(all, (token) => token ?? '')
  return {
    spelling,
    spelt: named.map((token, id) => (marks.has(id) ? '' : token)),
    bytes(id) {
      const token = all[id]
      if (token === undefined) return undefined
      if (marks.has(id)) return new TextEncoder().encode(token)
      return spelling === 'byte_level' ? fromByteLevel(token) : fromByteFallback(token)
    },
  }
}

function fromByteLevel(token: string): Uint8Array {
  const bytes: number[] = []
  for (const char of token) {
    const byte = BYTES.get(char)
    if (byte === undefined) bytes.push(...new TextEncoder().encode(char))
    else bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

function fromByteFallback(token: string): Uint8Array {
  const [, hex] = /^<0x([0-9A-F]{2})>$/.exec(token) ?? []
  return hex === undefined ? new TextEncoder().encode(token.replaceAll('▁', ' ')) : Uint8Array.of(Number(`0x${hex}`))
}

/** GPT-2's: printable bytes are themselves, the others follow from U+0100 on in their order. */
const BYTES: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  let next = 0x100
  const pairs = Array.from({ length: 256 }, (_, byte): [string, number] => [
    String.fromCodePoint(printable(byte) ? byte : next++),
    byte,
  ])
  return new Map(pairs)
})()
