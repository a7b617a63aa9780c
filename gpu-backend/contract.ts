// What the gateway and the backend agree on: the capability that a request carries, the body it may have, the paths.
// The gateway mints a capability per request after it has authorised the caller; the backend serves nothing without one.
import * as z from 'zod'

export const CAPABILITY_ISSUER = 'sidepath-gateway'
export const CAPABILITY_AUDIENCE = 'sidepath-backend'
/** A capability is a JWT, signed with HS256 and the secret that both sides share; nothing else is accepted. */
export const CAPABILITY_ALGORITHM = 'HS256'
/** Longest life of a capability, from `iat` to `exp`: it is used at once or not at all. */
export const CAPABILITY_TTL_S = 60

const Digest = z.string().regex(/^[0-9a-f]{64}$/)

/** Each part is a file to read, and their ranks add up in one slot of the bank. */
export const MAX_MIX_PARTS = 8
/** Beyond any use, and far from the end of fp32: the sum of a mix's largest weights. */
export const MAX_MIX_WEIGHT = 1_000

/** Adapters of one base, each times its weight: Σ wᵢ·Δᵢ, which runs in one slot as if it were one adapter. */
export const Mix = z
  .array(
    z.strictObject({
      digest: Digest,
      weight: z
        .number()
        .min(-MAX_MIX_WEIGHT)
        .max(MAX_MIX_WEIGHT)
        .refine((weight) => weight !== 0, 'a part of weight 0 is no part'),
    }),
  )
  .min(1)
  .max(MAX_MIX_PARTS)
  .refine((parts) => new Set(parts.map(({ digest }) => digest)).size === parts.length, 'digests must differ')
export type Mix = z.infer<typeof Mix>

/** A mix is spelt with the names of its parts: eight of 128 characters, and the weights between them. */
export const MAX_MODEL_CHARS = 1_200

/** Claims beside the registered `iss`, `aud`, `iat`, `exp` and `jti` (a fresh UUID). */
export const CapabilityClaims = z.object({
  /** `infer` may run tokens; `load` may make an adapter resident; `admin` may unload and list. */
  act: z.enum(['infer', 'load', 'admin']),
  /** Tenant id. Rows of different tenants never share cached prefixes. */
  tenant: z.string().min(1).max(128),
  /** Digest of the base that the request is meant for; the backend refuses any other. */
  base: Digest,
  /**
   * Digest of the adapter that this request runs with, or the mix; null is the base itself. One claim for all three: a
   * backend that does not know mixes refuses one, where it would take a claim beside this for a request for the base.
   */
  adapter: z.union([Digest, Mix]).nullable(),
  /** The name that the caller used; answers carry it in `model`, in every chunk. */
  model: z.string().min(1).max(MAX_MODEL_CHARS),
  /** Upper bound on generated tokens; `max_tokens` above it is cut to it. */
  maxTokens: z.int().min(1),
})
export type Capability = z.infer<typeof CapabilityClaims>

/** Every token is compared with every stop string, so they are short. */
export const MAX_STOP_CHARS = 1_000
export const MAX_STOPS = 4
/** As OpenAI's for chat. Each is a search over the vocabulary, once per token. */
export const MAX_TOP_LOGPROBS = 20
/** Rows that one request may ask for, prompts times `n`: half of the default queue, so that one caller never fills it. */
export const MAX_CHOICES = 32
/** Each is an addition per token; OpenAI's clients send far fewer. */
export const MAX_LOGIT_BIASES = 1_024
/** A context holds fewer; the check by the model's own length comes later. */
const MAX_PROMPT_TOKENS = 131_072
const MAX_TEXT_CHARS = 1_000_000
/** A schema or a list of tools is a prompt, or a grammar, in the making. */
export const MAX_SCHEMA_CHARS = 65_536
/** As OpenAI's. */
export const MAX_TOOLS = 128
const MAX_MESSAGES = 256
const MAX_TEXT_PARTS = 64

const StopString = z.string().min(1).max(MAX_STOP_CHARS)
const Penalty = z.number().min(-2).max(2).nullish()

const sampling = {
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  n: z.int().min(1).max(MAX_CHOICES).nullish(),
  seed: z.int().nullish(),
  stop: z.union([StopString, z.array(StopString).max(MAX_STOPS)]).nullish(),
  presence_penalty: Penalty,
  frequency_penalty: Penalty,
  /** Token id → what is added to its logit. */
  logit_bias: z
    .record(z.string().regex(/^\d{1,7}$/, 'must be token ids'), z.number().min(-100).max(100))
    .refine((biases) => Object.keys(biases).length <= MAX_LOGIT_BIASES, `has more than ${MAX_LOGIT_BIASES} tokens`)
    .nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().optional(),
      /** As in vLLM: every chunk carries the usage so far, so that an aborted stream can be billed. */
      continuous_usage_stats: z.boolean().optional(),
    })
    .nullish(),
}

const TokenId = z.int().min(0)
const TokenIds = z.array(TokenId).min(1).max(MAX_PROMPT_TOKENS)
const Text = z.string().max(MAX_TEXT_CHARS)

/** `POST /v1/completions`. Fields that are not listed are refused by name: nothing is silently ignored. */
export const CompletionRequest = z
  .strictObject({
    /** A text or a list of them, token ids or a list of such lists. Each is answered `n` times. */
    prompt: z.union([Text, z.array(Text).min(1).max(MAX_CHOICES), TokenIds, z.array(TokenIds).min(1).max(MAX_CHOICES)]),
    max_tokens: z.int().min(0).nullish(),
    echo: z.boolean().nullish(),
    logprobs: z.int().min(0).max(MAX_TOP_LOGPROBS).nullish(),
    /** Only what changes nothing: as many answers are made as are returned. */
    best_of: z.int().min(1).nullish(),
    suffix: z.literal('', 'is not supported: this backend does not fill in the middle').nullish(),
    ...sampling,
  })
  .check(({ value, issues }) => {
    const refuse = (field: string, message: string): void => {
      issues.push({ code: 'custom', path: [field], message, input: value })
    }
    const n = value.n ?? 1
    const prompts = promptsOf(value.prompt).length
    if (prompts * n > MAX_CHOICES) {
      refuse('n', `${prompts} prompts times n = ${n} are more than ${MAX_CHOICES} answers; send several requests`)
    }
    if (value.best_of != null && value.best_of !== n) {
      refuse('best_of', `is ${value.best_of} and n is ${n}; answers are not ranked here, leave best_of out`)
    }
    if (value.max_tokens === 0 && value.echo !== true) {
      refuse('max_tokens', 'may be 0 only with echo, to get the log-probabilities of the prompt')
    }
  })
export type CompletionRequest = z.infer<typeof CompletionRequest>
export type Prompt = CompletionRequest['prompt']

/** One entry per prompt. */
export function promptsOf(prompt: Prompt): readonly (string | readonly number[])[] {
  if (typeof prompt === 'string') return [prompt]
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as (string | number[])[])
}

/** OpenAI's rule. */
const FunctionName = z.string().regex(/^[\w-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -')
const CallId = z.string().min(1).max(128)

const TextPart = z.strictObject({ type: z.literal('text', 'only text parts are supported'), text: Text })
const Content = z.union([Text, z.array(TextPart).min(1).max(MAX_TEXT_PARTS)])
const ToolCall = z.strictObject({
  id: CallId,
  type: z.literal('function'),
  function: z.strictObject({ name: FunctionName, arguments: z.string().max(MAX_SCHEMA_CHARS) }),
})

export const ChatMessage = z.discriminatedUnion('role', [
  z.strictObject({ role: z.enum(['system', 'developer', 'user']), content: Content }),
  z
    .strictObject({
      role: z.literal('assistant'),
      content: Content.nullish(),
      refusal: z.null().optional(),
      tool_calls: z.array(ToolCall).min(1).max(MAX_TOOLS).optional(),
    })
    .refine(({ content, tool_calls }) => content != null || tool_calls !== undefined, 'needs content or tool_calls'),
  z.strictObject({ role: z.literal('tool'), tool_call_id: CallId, content: Content }),
])
export type ChatMessage = z.infer<typeof ChatMessage>

const JsonSchema = z.record(z.string(), z.unknown())
const shortEnough = (value: unknown): boolean => JSON.stringify(value).length <= MAX_SCHEMA_CHARS

const Tool = z.strictObject({
  type: z.literal('function', 'only functions are supported'),
  function: z.strictObject({
    name: FunctionName,
    description: z.string().max(MAX_SCHEMA_CHARS).optional(),
    parameters: JsonSchema.optional(),
    strict: z.literal(false, 'is not supported').nullish(),
  }),
})
export type Tool = z.infer<typeof Tool>

export const ResponseFormat = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text') }),
  z.strictObject({ type: z.literal('json_object') }),
  z.strictObject({
    type: z.literal('json_schema'),
    json_schema: z.strictObject({
      name: FunctionName,
      description: z.string().max(MAX_SCHEMA_CHARS).optional(),
      schema: JsonSchema.refine(shortEnough, `has more than ${MAX_SCHEMA_CHARS} characters`),
      /** Every schema is kept to, or refused. */
      strict: z.boolean().nullish(),
    }),
  }),
])
export type ResponseFormat = z.infer<typeof ResponseFormat>

/** `POST /v1/chat/completions`. */
export const ChatCompletionRequest = z
  .strictObject({
    messages: z.array(ChatMessage).min(1).max(MAX_MESSAGES),
    max_tokens: z.int().min(1).nullish(),
    max_completion_tokens: z.int().min(1).nullish(),
    logprobs: z.boolean().nullish(),
    top_logprobs: z.int().min(0).max(MAX_TOP_LOGPROBS).nullish(),
    tools: z
      .array(Tool)
      .min(1)
      .max(MAX_TOOLS)
      .refine(shortEnough, `have more than ${MAX_SCHEMA_CHARS} characters`)
      .nullish(),
    tool_choice: z
      .union([
        z.enum(['none', 'auto', 'required']),
        z.strictObject({ type: z.literal('function'), function: z.strictObject({ name: FunctionName }) }),
      ])
      .nullish(),
    parallel_tool_calls: z.literal(true, 'may be true only: how many calls an answer has is up to the model').nullish(),
    response_format: ResponseFormat.nullish(),
    ...sampling,
  })
  .check(({ value, issues }) => {
    const refuse = (field: string, message: string): void => {
      issues.push({ code: 'custom', path: [field], message, input: value })
    }
    if (value.top_logprobs != null && value.logprobs !== true) refuse('top_logprobs', 'needs logprobs to be true')
    if (value.tool_choice != null && value.tools == null) refuse('tool_choice', 'needs tools')
    const named = typeof value.tool_choice === 'object' ? value.tool_choice?.function.name : undefined
    if (named !== undefined && !value.tools?.some((tool) => tool.function.name === named)) {
      refuse('tool_choice', `names the function "${named}", which is none of the tools`)
    }
    const { max_tokens: older, max_completion_tokens: newer } = value
    if (older != null && newer != null && older !== newer) {
      refuse('max_tokens', `is ${older} and max_completion_tokens is ${newer}; send one of them`)
    }
    const constrained = value.response_format != null && value.response_format.type !== 'text'
    if (constrained && value.tools != null && value.tool_choice !== 'none') {
      refuse('response_format', 'cannot be combined with tools: a call would not be of that form')
    }
  })
export type ChatCompletionRequest = z.infer<typeof ChatCompletionRequest>

/** Texts per request: with more, an answer of long vectors in decimal digits would not fit through the gateway. */
export const MAX_EMBEDDING_INPUTS = 512

/** `POST /v1/embeddings`, of an encoder that embeds sentences. */
export const EmbeddingRequest = z.strictObject({
  input: z.union([
    Text.min(1),
    z.array(Text.min(1)).min(1).max(MAX_EMBEDDING_INPUTS),
    TokenIds,
    z.array(TokenIds).min(1).max(MAX_EMBEDDING_INPUTS),
  ]),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  /** Only the model's own width: a vector that is cut needs a model that was trained for it. */
  dimensions: z.int().min(1).nullish(),
})
export type EmbeddingRequest = z.infer<typeof EmbeddingRequest>

/** `POST /v1/adapters/load`: make an adapter of the backend's store resident, or a mix. The capability (`act: load`) names it. */
export const LoadResponse = z.object({ digest: Digest, slot: z.int(), loadedMs: z.number() })

/** `GET /readyz`: no credential; says only what a router needs. */
export const Readiness = z.object({ ready: z.boolean(), base: Digest, slots: z.int(), free: z.int() })

export const paths = {
  completions: '/v1/completions',
  chat: '/v1/chat/completions',
  embeddings: '/v1/embeddings',
  load: '/v1/adapters/load',
  unload: '/v1/adapters/unload',
  adapters: '/v1/adapters',
  health: '/healthz',
  ready: '/readyz',
  metrics: '/metrics',
} as const
