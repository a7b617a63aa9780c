// Declared: what a tenant's key opens, and what needs none. Answers are those of the backend's contract, OpenAI's.
import { z } from '@hono/zod-openapi'
import { Body as FeedbackBody } from '../experiment/give-feedback.ts'
import { schemas } from '../infer/parse-request.ts'
import { forUsers, open } from './declare.ts'
import { modelNotFound, unconfigured, uninferred } from './refusals.ts'

const Model = z
  .strictObject({
    id: z.string(),
    object: z.literal('model'),
    created: z.int(),
    owned_by: z.string(),
    parent: z.string().nullable(),
  })
  .openapi('ListedModel')
const Models = z.strictObject({ object: z.literal('list'), data: z.array(Model) })

const count = z.int().min(0)
const Usage = z.looseObject({
  prompt_tokens: count,
  completion_tokens: count.optional(),
  total_tokens: count.optional(),
})
const finish = z.enum(['stop', 'length', 'tool_calls', 'content_filter', 'function_call']).nullable()
const Top = z.looseObject({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullish() })
const Scored = z
  .looseObject({
    content: z.array(Top.extend({ top_logprobs: z.array(Top).optional() })).nullish(),
    refusal: z.null().optional(),
  })
  .nullish()
const Scores = z
  .looseObject({
    tokens: z.array(z.string()).optional(),
    token_logprobs: z.array(z.number().nullable()).optional(),
    top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullish(),
    text_offset: z.array(z.int()).optional(),
  })
  .nullish()
const ToolCall = z.looseObject({
  id: z.string().nullish(),
  type: z.literal('function').nullish(),
  function: z.looseObject({ name: z.string().optional(), arguments: z.string().optional() }),
})
const Message = z.looseObject({
  role: z.literal('assistant').optional(),
  content: z.string().nullish(),
  refusal: z.string().nullish(),
  tool_calls: z.array(ToolCall).nullish(),
})
const head = { id: z.string(), created: z.int(), model: z.string() }
const Chat = z
  .looseObject({
    ...head,
    object: z.literal('chat.completion'),
    choices: z.array(z.looseObject({ index: count, message: Message, logprobs: Scored, finish_reason: finish })).min(1),
    usage: Usage.optional(),
  })
  .openapi('ChatCompletion')
const Completion = z
  .looseObject({
    ...head,
    object: z.literal('text_completion'),
    choices: z.array(z.looseObject({ index: count, text: z.string(), logprobs: Scores, finish_reason: finish })).min(1),
    usage: Usage.optional(),
  })
  .openapi('Completion')
const Embeddings = z
  .looseObject({
    object: z.literal('list'),
    model: z.string(),
    data: z.array(
      z.looseObject({
        object: z.literal('embedding'),
        index: count,
        embedding: z.union([z.array(z.number()), z.string()]),
      }),
    ),
    usage: Usage.optional(),
  })
  .openapi('Embeddings')

const headers = z.object({
  'idempotency-key': z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/)
    .optional(),
  traceparent: z.string().optional(),
})
/** Of an answer that ran or was kept. */
const receipt = z.object({
  'x-sidepath-receipt': z.string().regex(/^[0-9a-f]{32}$/),
  'idempotent-replayed': z.literal('true').optional(),
})
const events = z
  .string()
  .openapi({ description: 'Chunks as OpenAI streams them, `data: {…}` each, and `data: [DONE]` at the end.' })
const generated = (whole: z.ZodType) => ({
  200: { content: { 'application/json': whole, 'text/event-stream': events }, headers: receipt },
})
const refusals = { ...modelNotFound, ...uninferred }

const tag = 'Inference'
const Said = z.strictObject({ request_id: z.string(), metric: z.string(), value: z.number() }).openapi('Feedback')
const status = (...values: [string, ...string[]]) => z.strictObject({ status: z.enum(values) })
const notConfigured = unconfigured[503]?.content['application/json'].schema ?? z.never()
const document = z.looseObject({ openapi: z.literal('3.1.0') })
const page = { 200: { content: { 'text/html': z.string() } } }

export const inference = [
  forUsers('get', '/v1/models', { tag, summary: 'The models that the caller may use now.', answers: { 200: Models } }),
  forUsers('get', '/v1/models/:model', {
    tag,
    summary: 'One of them.',
    params: { model: z.string() },
    refusals: modelNotFound,
    answers: { 200: Model },
  }),
  forUsers('post', '/v1/chat/completions', {
    tag,
    summary: 'Answer a conversation.',
    headers,
    body: schemas.chat,
    refusals,
    answers: generated(Chat),
  }),
  forUsers('post', '/v1/completions', {
    tag,
    summary: 'Continue a text.',
    headers,
    body: schemas.completions,
    refusals,
    answers: generated(Completion),
  }),
  forUsers('post', '/v1/embeddings', {
    tag,
    summary: 'Texts to vectors.',
    headers,
    body: schemas.embeddings,
    refusals,
    answers: { 200: { content: { 'application/json': Embeddings }, headers: receipt } },
  }),
  forUsers('post', '/v1/feedback', {
    tag,
    summary: 'A number about a request of the own tenant.',
    body: FeedbackBody,
    codes: ['unknown_metric', 'already_recorded'],
    finds: true,
    answers: { 200: Said, 201: Said },
  }),
]

export const unguarded = [
  open('get', '/healthz', {
    tag: 'Health',
    summary: 'Whether every base in use has a backend that is ready for it.',
    answers: {
      200: status('ok'),
      503: z.union([status('database_unavailable', 'no_ready_backend'), notConfigured]),
    },
  }),
  open('get', '/openapi.json', { tag: 'Reference', summary: 'This document.', answers: { 200: document } }),
  open('get', '/docs', { tag: 'Reference', summary: 'This document as a page.', answers: page }),
]
