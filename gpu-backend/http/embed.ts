// `/v1/embeddings`: texts or token ids to vectors, as OpenAI writes them.
import type { Context } from 'hono'
import { EmbeddingRequest, promptsOf } from '../contract.ts'
import { runnableOf } from '../engine/mix.ts'
import { BackendError } from '../errors.ts'
import type { Env } from './env.ts'
import type { GenerateOptions } from './generate.ts'
import { readBody } from './read-body.ts'
import { traceRows } from './trace-rows.ts'

export async function embed(context: Context<Env>, options: GenerateOptions): Promise<Response> {
  const { engine, text, log, now, metrics } = options
  const { adapter: claimed, tenant, model } = context.get('capability')
  const body = await readBody(context.req.raw, EmbeddingRequest)
  const { maxPositions, vocabSize, embeddingWidth } = engine.info
  if (embeddingWidth === undefined) {
    throw new BackendError('request_invalid', 'the base of this backend generates texts and embeds none')
  }
  if (body.dimensions != null && body.dimensions !== embeddingWidth) {
    const message = `"dimensions": the vectors of this model have ${embeddingWidth} and are not cut`
    throw new BackendError('request_invalid', message, 'dimensions')
  }
  const rows = promptsOf(body.input).map((input) => {
    if (typeof input !== 'string') return checked(input, maxPositions, vocabSize)
    if (text === undefined)
      throw new BackendError('request_invalid', 'this artifact has no tokenizer; send token ids', 'input')
    return text.encode(input, maxPositions)
  })
  const promptTokens = rows.reduce((sum, row) => sum + row.length, 0)
  const startMs = now()
  const recording = metrics.record(promptTokens)
  const traced = traceRows(options.exporter, context)
  const runnable = runnableOf(claimed)
  let outcome = 'aborted'
  try {
    const vectors = await engine.embed({ rows, ...runnable, tenant }, context.req.raw.signal)
    outcome = 'stop'
    recording.ran()
    const write = body.encoding_format === 'base64' ? toBase64 : toNumbers
    return context.json({
      object: 'list',
      data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: write(vector) })),
      model,
      usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
    })
  } catch (error) {
    if (error instanceof BackendError) outcome = error.code
    else if (!context.req.raw.signal.aborted) outcome = 'failed'
    throw error
  } finally {
    recording.end(outcome)
    traced?.end(outcome, { prompt: promptTokens, completion: 0 })
    const { requestId, trace } = context.var
    const { adapter } = runnable
    const totalMs = now() - startMs
    log({
      event: 'embedding',
      requestId,
      ...trace,
      tenant,
      adapter,
      model,
      texts: rows.length,
      promptTokens,
      outcome,
      totalMs,
    })
  }
}

function checked(ids: readonly number[], maxTokens: number, vocabSize: number): readonly number[] {
  if (ids.length > maxTokens) {
    const message = `"input": ${ids.length} tokens; at most ${maxTokens} fit`
    throw new BackendError('context_length_exceeded', message, 'input')
  }
  const bad = ids.find((id) => id >= vocabSize)
  if (bad === undefined) return ids
  throw new BackendError('request_invalid', `"input": there is no token ${bad}; this model has ${vocabSize}`, 'input')
}

/** Nine digits are the number, to the bit, and half the length of the double that JavaScript would print. */
function toNumbers(vector: Float32Array): number[] {
  return Array.from(vector, (value) => Number(value.toPrecision(9)))
}

/** Little-endian, as OpenAI's. */
function toBase64(vector: Float32Array): string {
  const bytes = Buffer.alloc(vector.length * Float32Array.BYTES_PER_ELEMENT)
  for (const [at, value] of vector.entries()) bytes.writeFloatLE(value, at * Float32Array.BYTES_PER_ELEMENT)
  return bytes.toString('base64')
}
