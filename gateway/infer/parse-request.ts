// From a caller's body to the body that the backend gets: parsed, refused by name where unknown, built anew.
import * as z from 'zod'
import {
  ChatCompletionRequest,
  CompletionRequest,
  EmbeddingRequest,
  MAX_MODEL_CHARS,
  paths,
} from '../../gpu-backend/contract.ts'
import { badRequest } from '../errors.ts'
import { readJsonBody } from '../read-body.ts'
import { type AskedModel, parseModel } from './parse-model.ts'

const model = z.string().min(1).max(MAX_MODEL_CHARS)
export const schemas = {
  chat: ChatCompletionRequest.safeExtend({ model }),
  completions: CompletionRequest.safeExtend({ model }),
  embeddings: EmbeddingRequest.extend({ model }),
}

export type Endpoint = keyof typeof schemas

export interface InferRequest {
  readonly model: AskedModel
  readonly path: string
  readonly stream: boolean
  /** JSON for the backend. It has no `model`: what runs is in the signed capability alone. */
  readonly body: string
  /** As parsed, for those who count. */
  readonly fields: ChatCompletionRequest | CompletionRequest | EmbeddingRequest
}

export function refuse(error: z.ZodError): never {
  const issue = error.issues[0]
  const path = issue?.path.join('.') ?? ''
  if (issue?.code === 'unrecognized_keys') {
    const name = [path, issue.keys[0]].filter(Boolean).join('.')
    throw badRequest(`Unknown parameter: '${name}'.`, 'unknown_parameter', name)
  }
  const what = path === '' ? 'request body' : `parameter '${path}'`
  throw badRequest(`Invalid ${what}: ${issue?.message ?? 'not acceptable'}.`, 'invalid_value', path || null)
}

export async function parseInferRequest(request: Request, endpoint: Endpoint): Promise<InferRequest> {
  const parsed = schemas[endpoint].safeParse(await readJsonBody(request))
  if (!parsed.success) refuse(parsed.error)
  const { model: name, ...fields } = parsed.data
  const stream = 'stream' in fields && fields.stream === true
  const asked = 'stream_options' in fields ? fields.stream_options : undefined
  if (!stream && asked) {
    throw badRequest("'stream_options' is for streamed answers only.", 'invalid_value', 'stream_options')
  }
  // Usage in every chunk, so that a stream that ends early can still be metered; the last chunk as the caller asked.
  const options = stream
    ? { stream_options: { include_usage: asked?.include_usage === true, continuous_usage_stats: true } }
    : { stream_options: undefined }
  const body = JSON.stringify({ ...fields, ...options })
  return { model: parseModel(name), path: paths[endpoint], stream, body, fields }
}
