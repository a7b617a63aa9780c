// The compiler service as the gateway sees it: an address and a token of the operator, and answers that are checked.

import * as z from 'zod'
import { MANIFEST_FILE, type Manifest, ManifestSchema } from '../compiler/contract.ts'
import { Job, paths, type Recipe } from '../jobs/contract.ts'
import type { GatewayContext } from './context.ts'
import { toHex } from './digest.ts'
import { badRequest, GatewayError } from './errors.ts'
import { concat } from './read-body.ts'
import { abandon } from './upstream/abandon.ts'

/** The manifest of a merge has two lines per adapter module; an isolate has 128 MB. */
const MAX_ANSWER_BYTES = 8 << 20
const MAX_MESSAGE_CHARS = 500

const failed = () =>
  new GatewayError(502, { message: 'The compiler could not be reached.', type: 'api_error', code: 'compiler_failed' })

const ErrorBody = z.object({ error: z.object({ message: z.string(), code: z.string() }) })

export async function submitJob(c: GatewayContext, recipe: z.input<typeof Recipe>): Promise<Job> {
  return parse(Job, await call(c, 'POST', paths.jobs, JSON.stringify(recipe)))
}

export async function readJob(c: GatewayContext, id: string): Promise<Job> {
  return parse(Job, await call(c, 'GET', paths.job(id)))
}

/** The bytes are what the id says, whoever sent them. */
export async function readManifest(c: GatewayContext, id: string): Promise<Manifest> {
  const bytes = await call(c, 'GET', paths.artifact(id, MANIFEST_FILE))
  if (toHex(await crypto.subtle.digest('SHA-256', bytes)) !== id) throw failed()
  return parse(ManifestSchema, bytes)
}

async function call(c: GatewayContext, method: string, path: string, body?: string): Promise<Uint8Array<ArrayBuffer>> {
  const { compiler } = c.get('config')
  if (compiler === undefined) {
    throw new GatewayError(503, {
      message: 'No compiler is configured; set COMPILER_URL and COMPILER_TOKEN.',
      type: 'api_error',
      code: 'compiler_not_configured',
    })
  }
  const { fetch, timeouts } = c.get('world')
  const response = await fetch(new URL(path, compiler.url).href, {
    method,
    headers: {
      authorization: `Bearer ${compiler.token}`,
      'x-request-id': c.get('requestId'),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body }),
    // A redirect would let somebody choose where the token goes next.
    redirect: 'manual',
    signal: AbortSignal.timeout(timeouts.wholeAnswerMs),
  }).catch(() => {
    throw failed()
  })
  const bytes = await readCapped(response).catch(() => {
    throw failed()
  })
  if (response.ok) return bytes
  throw refusal(response.status, bytes)
}

/** Where the compiler blames the recipe its words are passed on; where it blames itself or us, none are. */
function refusal(status: number, bytes: Uint8Array): GatewayError {
  if (status === 429) {
    const message = 'The compiler is busy. Retry after a pause.'
    return new GatewayError(429, { message, type: 'rate_limit_error', code: 'compiler_busy' }, { 'retry-after': '5' })
  }
  if (status !== 400) return failed()
  const { message, code } = parse(ErrorBody, bytes).error
  return badRequest(message.slice(0, MAX_MESSAGE_CHARS), code)
}

async function readCapped(response: Response): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = []
  let length = 0
  const reader: ReadableStreamDefaultReader<Uint8Array> | undefined = response.body?.getReader()
  for (;;) {
    const next = await reader?.read()
    if (next === undefined || next.done) return new Uint8Array(concat(chunks, length))
    length += next.value.length
    if (length > MAX_ANSWER_BYTES) {
      abandon(reader)
      throw failed()
    }
    chunks.push(next.value)
  }
}

function parse<T extends z.ZodType>(schema: T, bytes: Uint8Array): z.output<T> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    throw failed()
  }
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw failed()
  return parsed.data
}
