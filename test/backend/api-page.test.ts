// docs/openai-api.md against the schemas: every field that is taken is in its table, and no other.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  ChatCompletionRequest,
  CompletionRequest,
  EmbeddingRequest,
  MAX_CHOICES,
  MAX_EMBEDDING_INPUTS,
  MAX_LOGIT_BIASES,
  MAX_STOP_CHARS,
  MAX_STOPS,
  MAX_TOOLS,
  MAX_TOP_LOGPROBS,
  paths,
} from '../../gpu-backend/contract.ts'

const page = await readFile(join(import.meta.dirname, '..', '..', 'docs', 'openai-api.md'), 'utf8')

/** The part of the page from a heading to the next. */
const sectionOf = (heading: string): string => page.split(`## \`POST ${heading}\``)[1]!.split('\n## ')[0]!
const fieldsOf = (section: string): string[] =>
  section
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .flatMap((line) => [...line.split('|')[1]!.matchAll(/`([^`]+)`/g)].map(([, field]) => field!))

describe('the page', () => {
  test.each([
    [paths.completions, CompletionRequest],
    [paths.chat, ChatCompletionRequest],
    [paths.embeddings, EmbeddingRequest],
  ])('has the fields of %s', (path, schema) => {
    expect(fieldsOf(sectionOf(path)).sort()).toEqual(Object.keys(schema.shape).sort())
  })

  test('has the bounds that are in force', () => {
    const [completions, chat, embeddings] = [paths.completions, paths.chat, paths.embeddings].map(sectionOf)
    expect(completions).toContain(`at most ${MAX_CHOICES} prompts`)
    expect(completions).toContain(`| \`logprobs\` | 0 to ${MAX_TOP_LOGPROBS} |`)
    expect(completions).toContain(
      `a text or up to ${MAX_STOPS} | up to ${MAX_STOP_CHARS.toLocaleString('en')} characters`,
    )
    expect(completions).toContain(`up to ${MAX_LOGIT_BIASES.toLocaleString('en')} ids`)
    expect(chat).toContain(`up to ${MAX_TOOLS} functions`)
    expect(embeddings).toContain(`1 to ${MAX_EMBEDDING_INPUTS}, none empty`)
  })
})
