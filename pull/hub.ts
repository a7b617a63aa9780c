// Requests to the Hub: the token for its own origin only, redirects one by one, every status a typed error.
import { PullError, Transient } from './errors.ts'

export interface HubOptions {
  readonly endpoint: URL
  readonly token?: string | undefined
  readonly fetch?: typeof fetch
  readonly signal?: AbortSignal | undefined
}

export interface Hub {
  /** Without a slash at the end. */
  readonly url: string
  /** The answer to a GET of a file, its body not yet read. */
  get(url: string, headers: Readonly<Record<string, string>>, signal?: AbortSignal): Promise<Response>
  /** In the place of `fetch`, for the library's calls of the API: bounded, and only ever at the Hub itself. */
  readonly api: typeof fetch
}

/** Hub → CDN is one; a renamed repository is one more. */
const MAX_REDIRECTS = 5
/** A page of a listing has at most 1000 entries of under 1 kB each. */
const MAX_API_BYTES = 16 * 1024 * 1024
const API_TIMEOUT_MS = 60_000
const MAX_RETRY_AFTER_MS = 120_000

export function createHub({ endpoint, token, fetch: send = fetch, signal }: HubOptions): Hub {
  const authorization = token === undefined ? undefined : `Bearer ${token}`

  async function get(address: string, headers: Readonly<Record<string, string>>, also?: AbortSignal) {
    const signals = [signal, also].filter((one) => one !== undefined)
    let url = new URL(address)
    // A host that answered for the Hub may not send us back with the token either.
    let isHome = true
    for (let hop = 0; hop <= MAX_REDIRECTS; hop += 1) {
      isHome &&= url.origin === endpoint.origin
      const response = await send(url, {
        headers: { ...headers, ...(isHome && authorization !== undefined ? { authorization } : {}) },
        redirect: 'manual',
        ...(signals.length === 0 ? {} : { signal: AbortSignal.any(signals) }),
      }).catch((error: unknown) => {
        throw networkError(url, error, signal)
      })
      if (response.status < 300 || response.status >= 400 || response.status === 304) {
        if (response.ok) return response
        await response.body?.cancel()
        throw statusError(response, url, isHome && token !== undefined)
      }
      await response.body?.cancel()
      url = nextUrl(response.headers.get('location'), url)
    }
    throw new PullError('redirect-refused', `${endpoint.host} redirects more than ${MAX_REDIRECTS} times; try later.`)
  }

  async function api(input: string | URL | Request): Promise<Response> {
    const url = new URL(input instanceof Request ? input.url : input)
    if (url.origin !== endpoint.origin) {
      throw new PullError('hub-answer', `${endpoint.host} continues its listing on another host, which is not asked.`)
    }
    const timeout = AbortSignal.timeout(API_TIMEOUT_MS)
    const response = await get(url.href, { accept: 'application/json' }, timeout)
    const bytes = await readBounded(response, url, signal)
    const link = response.headers.get('link')
    return new Response(bytes, { headers: { 'content-type': 'application/json', ...(link === null ? {} : { link }) } })
  }

  return { url: endpoint.href.replace(/\/+$/, ''), get, api }
}

async function readBounded(
  response: Response,
  url: URL,
  signal: AbortSignal | undefined,
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = []
  let size = 0
  try {
    for await (const part of response.body ?? []) {
      size += part.length
      if (size > MAX_API_BYTES) {
        throw new PullError('hub-answer', `${url.host} answers with more than ${MAX_API_BYTES} bytes; try later.`)
      }
      parts.push(part)
    }
  } catch (error) {
    if (error instanceof PullError) throw error
    throw networkError(url, error, signal)
  }
  return new Uint8Array(Buffer.concat(parts))
}

function nextUrl(location: string | null, from: URL): URL {
  const next = location !== null && URL.canParse(location, from.href) ? new URL(location, from) : undefined
  const isWeb = next?.protocol === 'https:' || next?.protocol === 'http:'
  if (next === undefined || !isWeb || next.username !== '' || next.password !== '') {
    throw new PullError('redirect-refused', `${from.host} redirects to no web address; try later.`)
  }
  if (from.protocol === 'https:' && next.protocol === 'http:') {
    throw new PullError('redirect-refused', `${from.host} redirects from https to http, which is not followed.`)
  }
  return next
}

/** What `error` says may hold an address with a signature: only its code is repeated. */
export function networkError(url: URL, error: unknown, signal: AbortSignal | undefined): Error {
  if (signal?.aborted) return interrupted()
  const cause = error instanceof Error ? (error.cause as NodeJS.ErrnoException | undefined) : undefined
  const code = typeof cause?.code === 'string' && /^[A-Z_]{1,40}$/.test(cause.code) ? ` (${cause.code})` : ''
  return new Transient(
    new PullError('hub-unavailable', `the connection to ${url.host} failed${code}; run the same command to go on.`),
  )
}

export function interrupted(): PullError {
  return new PullError('interrupted', 'interrupted; run the same command to go on where it was.')
}

function statusError({ status, headers }: Response, { host }: URL, withToken: boolean): Error {
  const reason = headers.get('x-error-code')
  const token = withToken ? 'the token in HF_TOKEN may not read it' : 'set HF_TOKEN to a token that may read it'
  switch (true) {
    case status === 401 || (status === 403 && reason !== 'GatedRepo'):
      return new PullError('unauthorised', `${host} answers ${status}: it does not exist or is private; ${token}.`)
    case status === 403:
      return new PullError('unauthorised', `${host} answers 403: accept the terms on the model's page first; ${token}.`)
    case status === 404:
      return new PullError('not-found', `${host} answers 404: ${missing(reason)}; check the spelling.`)
    case status === 429:
      return new Transient(
        new PullError('rate-limited', `${host} answers 429, too many requests; run the same command later to go on.`),
        retryAfter(headers.get('retry-after')),
      )
    case status === 408 || status >= 500:
      return new Transient(
        new PullError('hub-unavailable', `${host} answers ${status}; run the same command later to go on.`),
        retryAfter(headers.get('retry-after')),
      )
    default:
      return new PullError('hub-answer', `${host} answers ${status}, which a Hub does not; check HF_ENDPOINT.`)
  }
}

function missing(reason: string | null): string {
  if (reason === 'RevisionNotFound') return 'the repository has no such revision'
  if (reason === 'EntryNotFound') return 'the revision has no such file'
  return 'there is no such repository or revision'
}

function retryAfter(seconds: string | null): number | undefined {
  if (seconds === null || !/^\d{1,6}$/.test(seconds)) return undefined
  return Math.min(Number(seconds) * 1000, MAX_RETRY_AFTER_MS)
}
