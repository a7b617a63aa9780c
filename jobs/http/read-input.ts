// What a caller sends, parsed: bounded, strict JSON, nothing in it that we do not know.
import type { Context } from 'hono'
import * as z from 'zod'
import { InputError } from '../../compiler/errors.ts'
import { decodeJson } from '../../compiler/read-file.ts'
import type { Json } from '../../compiler/strict-json.ts'
import { Digest } from '../contract.ts'
import { JobsError } from '../errors.ts'
import { MAX_BODY_BYTES, MAX_LISTED } from '../limits.ts'
import { bodyOf, type Env } from './env.ts'

/** Longest name of a field that an error repeats. */
const MAX_FIELD_CHARS = 200

/** Throws `unsupported_media_type`, `request_too_large` or `request_invalid`, which names the field. */
export async function readBody<T extends z.ZodType>(context: Context<Env>, schema: T): Promise<z.output<T>> {
  const { headers } = context.req.raw
  const type = headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (type !== 'application/json' || headers.has('content-encoding')) {
    throw new JobsError('unsupported_media_type', 'send the body as application/json, without a content encoding')
  }
  const bytes = await readBounded(context)
  let json: Json
  try {
    json = decodeJson(bytes, 'the body', 'json-invalid')
  } catch (error) {
    if (error instanceof InputError) throw new JobsError('request_invalid', error.message)
    throw error
  }
  refuseProto(json)
  return check(schema, json)
}

export function readDigest(context: Context, name: string): string {
  return check(z.object({ [name]: Digest }), { [name]: context.req.param(name) })[name] ?? ''
}

const Page = z.object({
  limit: z.coerce.number().int().min(1).max(MAX_LISTED).default(100),
  before: z.coerce.number().int().min(0).default(Number.MAX_SAFE_INTEGER),
})

/** `?limit=&before=`: the newest that were asked for earlier than `before`. */
export function readPage(context: Context): z.output<typeof Page> {
  return check(Page, { limit: context.req.query('limit'), before: context.req.query('before') })
}

/** What the caller says of the length; a wrong one is the HTTP parser's to refuse. */
export function announcedBytes(request: Request): number | undefined {
  const length = request.headers.get('content-length')
  return length === null ? undefined : Number(length)
}

function check<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const isUnknown = issue.code === 'unrecognized_keys'
  const field = [...issue.path.map(String), ...(isUnknown ? issue.keys.slice(0, 1) : [])]
    .join('.')
    .slice(0, MAX_FIELD_CHARS)
  const what = isUnknown
    ? 'is not a field that this service knows'
    : issue.code === 'invalid_key'
      ? 'is not the name of a file that the compiler reads'
      : issue.message
  throw new JobsError('request_invalid', field === '' ? what : `${JSON.stringify(field)}: ${what}`, field || null)
}

/** The schema library drops the key in silence, and nothing may be ignored. */
function refuseProto(json: Json): void {
  if (json === null || typeof json !== 'object') return
  if (!Array.isArray(json) && Object.hasOwn(json, '__proto__')) {
    throw new JobsError('request_invalid', 'the key "__proto__" is not allowed', '__proto__')
  }
  for (const value of Object.values(json)) refuseProto(value)
}

async function readBounded(context: Context<Env>): Promise<Uint8Array> {
  const tooLarge = () => new JobsError('request_too_large', `the body has more than ${MAX_BODY_BYTES} bytes`)
  if ((announcedBytes(context.req.raw) ?? 0) > MAX_BODY_BYTES) throw tooLarge()
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of bodyOf(context)) {
    bytes += chunk.length
    if (bytes > MAX_BODY_BYTES) throw tooLarge()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
