// A JSON body, read once: capped before it is parsed, and refused where a key occurs twice.
// Two parsers that disagree on which duplicate counts are how one model is checked and another dispatched.

import { badRequest, GatewayError } from './errors.ts'
import { abandon } from './upstream/abandon.ts'

/** Larger than any prompt that the backend accepts; small beside the 128 MB of an isolate. */
export const MAX_BODY_BYTES = 1 << 20
/** The deepest bodies are JSON schemas of tools and of answers, which nest to about 20. */
const MAX_DEPTH = 64

const tooLarge = () =>
  new GatewayError(413, {
    message: `The request body is larger than ${MAX_BODY_BYTES} bytes.`,
    type: 'invalid_request_error',
    code: 'request_too_large',
  })

export function concat(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

/** The whole body, or null where it is longer; then the rest of it is not read. */
export async function readBounded(body: ReadableStream<Uint8Array>, maxBytes: number): Promise<Uint8Array | null> {
  const chunks: Uint8Array[] = []
  let length = 0
  const reader: ReadableStreamDefaultReader<Uint8Array> = body.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return concat(chunks, length)
    length += value.length
    if (length > maxBytes) {
      abandon(reader)
      return null
    }
    chunks.push(value)
  }
}

/** Its length is given, and an HTTP server lets no more through; then no stream has to be made for it. */
const isMeasured = (request: Request) =>
  /^[1-9]\d{0,6}$/.test(request.headers.get('content-length') ?? '') && !request.headers.has('transfer-encoding')

function readUnmeasured({ body }: Request): Promise<Uint8Array | null> {
  if (body === null) throw badRequest('The request has no body.', 'invalid_json')
  return readBounded(body, MAX_BODY_BYTES)
}

async function readCapped(request: Request): Promise<Uint8Array> {
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BODY_BYTES) throw tooLarge()
  const bytes = isMeasured(request) ? new Uint8Array(await request.arrayBuffer()) : await readUnmeasured(request)
  if (bytes === null || bytes.length > MAX_BODY_BYTES) throw tooLarge()
  return bytes
}

/** Index just past the string that opens at `start`. */
function endOfString(text: string, start: number): number {
  let at = start + 1
  while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}

/** Throws on the first repeated key. The text is valid JSON already, so a string before a colon is a key. */
function refuseDuplicateKeys(text: string): void {
  const scopes: Set<string>[] = []
  for (let at = 0; at < text.length; at++) {
    const char = text[at]
    if (char === '{' || char === '[') {
      scopes.push(new Set())
      if (scopes.length > MAX_DEPTH) throw badRequest('The request body is nested too deeply.', 'invalid_json')
    } else if (char === '}' || char === ']') {
      scopes.pop()
    } else if (char === '"') {
      const end = endOfString(text, at)
      let next = end
      while (text[next] === ' ' || text[next] === '\n' || text[next] === '\r' || text[next] === '\t') next++
      if (text[next] === ':') {
        // Decoded, so that an escaped letter does not make a second name of the first.
        const key = String(JSON.parse(text.slice(at, end)))
        const scope = scopes.at(-1)
        // `__proto__` is invisible to the schema library, so it is refused here.
        if (key === '__proto__' || scope?.has(key)) {
          throw badRequest(`The key '${key}' is not allowed here or occurs twice.`, 'invalid_json', key)
        }
        scope?.add(key)
      }
      at = end - 1
    }
  }
}

export async function readJsonBody(request: Request): Promise<unknown> {
  const type = request.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type !== 'application/json' || request.headers.has('content-encoding')) {
    throw new GatewayError(415, {
      message: 'Send the body as application/json, without a content encoding.',
      type: 'invalid_request_error',
      code: 'unsupported_media_type',
    })
  }
  const bytes = await readCapped(request)
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    throw badRequest('The request body is not valid JSON in UTF-8.', 'invalid_json')
  }
  refuseDuplicateKeys(text)
  return value
}
