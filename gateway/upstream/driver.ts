// What differs from one kind of backend to the next; one file a kind in drivers/.
import { badRequest } from '../errors.ts'
import type { Endpoint } from '../infer/parse-request.ts'
import type { DriverName } from './driver-names.ts'

export interface UpstreamAddress {
  readonly driver: DriverName
  /** An origin. */
  readonly url: string
  /** What stands before every path of its API: `` or `/some/path`. */
  readonly prefix: string
  /** Name of the binding with its credential; null: it asks for none. */
  readonly secret: string | null
  /** What the base is called there. */
  readonly baseModel: string
}

/** One adapter, as the backend calls it. */
export interface Part {
  readonly upstream: string
  readonly weight: number
}

/** One request, decided and authorised, for a backend that speaks no capability. */
export interface Call {
  readonly endpoint: Endpoint
  readonly stream: boolean
  /** What the caller asked for, parsed; the limit on tokens is set, and there is no model in it. */
  readonly fields: Readonly<Record<string, unknown>>
  /** None: the base itself. */
  readonly parts: readonly Part[]
  readonly baseModel: string
  /** One per tenant: what one tenant's prompts left in a cache is not found, nor timed, by another. */
  readonly cacheSalt: string
}

export interface Outgoing {
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
}

/** What a backend says of itself. */
export interface Load {
  /** Names of the adapters that are resident, and of those that wait for a slot. */
  readonly resident: ReadonlySet<string>
  readonly waiting: ReadonlySet<string>
  /** Slots that could take another adapter; null: it does not say. */
  readonly freeSlots: number | null
  /** Requests that run or wait. */
  readonly requests: number
}

/** From a backend's own form of answer to OpenAI's; made for one request, since streams have a beginning and an end. */
export interface Translator {
  whole(value: unknown): unknown
  /** Chunks in place of one event. */
  chunk(value: unknown): readonly unknown[]
  /** Chunks that are still owed when the stream ends in good order. */
  end(): readonly unknown[]
}

export interface Driver {
  readonly endpoints: readonly Endpoint[]
  /** What an adapter may be called there. */
  readonly adapterName: RegExp
  readonly needsBaseModel: boolean
  /** Whether it runs Σ weight · adapter. */
  readonly mixes: boolean
  /** Throws a GatewayError about a field that this kind of backend does not have. */
  write(call: Call): Outgoing
  /** Left out where it answers in OpenAI's form. */
  translate?(call: Call): Translator
  /** How it is told to load an adapter; null: it cannot be told. */
  readonly load: ((name: string, source: string) => Outgoing) | null
  /** Answers 200 where it could serve; null: nothing does that costs nothing. */
  readonly alivePath: string | null
  /** Where it says how busy it is, in Prometheus' text; null: nowhere. */
  readonly metricsPath: string | null
  readLoad(text: string): Load
}

export const NO_LOAD: Load = { resident: new Set(), waiting: new Set(), freeSlots: null, requests: 0 }

const PATHS: Readonly<Record<Endpoint, string>> = {
  chat: '/v1/chat/completions',
  completions: '/v1/completions',
  embeddings: '/v1/embeddings',
}

/** OpenAI's form, which all but one of them speak; `more` is what this kind of backend adds. */
export function writeOpenAi(call: Call, more: Readonly<Record<string, unknown>>): Outgoing {
  const { stream_options: _, ...fields } = call.fields
  // Usage at the end of every stream: what is not counted cannot be metered.
  const usage = call.stream ? { stream_options: { include_usage: true } } : {}
  return { path: PATHS[call.endpoint], body: { ...fields, ...usage, ...more } }
}

/** The adapter, or the base where there is none. */
export const nameOf = ({ parts, baseModel }: Call): string => parts[0]?.upstream ?? baseModel

/** Names as engines allow them: paths of a hub, versions, tags. */
export const PLAIN_NAME = /^[A-Za-z0-9][A-Za-z0-9._/@:-]{0,255}$/

/** Says nothing where it has this value, or is said in another way. */
const SILENT: Readonly<Record<string, (value: unknown) => boolean>> = {
  n: (value) => value === 1,
  best_of: (value) => value === 1,
  echo: (value) => value === false,
  logprobs: (value) => value === false,
  suffix: (value) => value === '',
  stream_options: () => true,
  max_tokens: () => true,
  max_completion_tokens: () => true,
}

/** For backends that would ignore what they do not know: the fields that go along, all others refused by name. */
export function keepFields({ fields }: Call, known: readonly string[]): Record<string, unknown> {
  const kept: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(fields)) {
    const isText = name !== 'prompt' || typeof value === 'string'
    if (known.includes(name) && isText) kept[name] = value
    else if (!SILENT[name]?.(value)) {
      throw badRequest(`The backend of this model does not take '${name}' in this form.`, 'invalid_value', name)
    }
  }
  return kept
}

export const maxTokensOf = ({ fields }: Call): number => Number(fields.max_completion_tokens ?? fields.max_tokens)
