// The body of a request: bounded, JSON, and nothing in it that we do not know.
import type { z } from 'zod'
import { BackendError } from '../errors.ts'

/** A million characters of prompt, in UTF-8 and JSON. */
export const MAX_BODY_BYTES = 1024 * 1024

/** Throws `request_too_large` or `request_invalid`, which names the field. */
export async function readBody<T>(request: Request, schema: z.ZodType<T>): Promise<T> {
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await readBounded(request)))
  } catch (error) {
    if (error instanceof BackendError) throw error
    throw new BackendError('request_invalid', 'the body is not JSON')
  }
  const parsed = schema.safeParse(json)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const field = [...issue.path, ...(issue.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : [])].join('.')
  const what = issue.code === 'unrecognized_keys' ? 'is not a field that this backend knows' : issue.message
  throw new BackendError(
    'request_invalid',
    field === '' ? what : `"${field.slice(0, 100)}": ${what}`,
    field.slice(0, 100) || null,
  )
}

async function readBounded(request: Request): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) {
      throw new BackendError('request_too_large', `the body has more than ${MAX_BODY_BYTES} bytes`)
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
