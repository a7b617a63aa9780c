// Answers of a given form: at every token, which of the vocabulary can follow, by XGrammar's automaton.
import type { CompiledGrammar, GrammarCompiler } from '@mlc-ai/web-xgrammar'
import { BackendError } from '../errors.ts'
import type { Constraint, Grammars } from './constraint.ts'
import type { Allowed } from './sampler.ts'
import { loadXgrammar } from './xgrammar.ts'

/** The tokens as the tokenizer's file spells them, by id. */
export interface Vocabulary {
  /** Empty where a token is no text, such as `</s>`. */
  readonly tokens: readonly string[]
  readonly spelling: 'byte_level' | 'byte_fallback'
  readonly endIds: readonly number[]
  /** Length of the logits. */
  readonly size: number
}

/** Callers repeat their schema with every request; a compiled one takes up to some MB. */
const MAX_KEPT = 16
/** Between two tokens of JSON: enough for a line end and an indent, too few to be spun out for ever. */
const MAX_WHITESPACE = 8

export function createGrammars(vocabulary: Vocabulary | undefined): Grammars {
  let compiler: Promise<GrammarCompiler> | undefined
  /** Least recently used first. */
  const kept = new Map<string, CompiledGrammar>()

  async function compile(constraint: Constraint): Promise<CompiledGrammar> {
    const key = JSON.stringify(constraint)
    const before = kept.get(key)
    if (before !== undefined) {
      kept.delete(key)
      kept.set(key, before)
      return before
    }
    compiler ??= createCompiler(vocabulary)
    const compiled = await compileWith(await compiler, constraint).catch(() => {
      const field = constraint.kind === 'call' ? 'tools' : 'response_format'
      throw new BackendError('request_invalid', 'no grammar can be made of this schema', field)
    })
    kept.set(key, compiled)
    const [oldest] = kept
    if (kept.size > MAX_KEPT && oldest !== undefined) {
      kept.delete(oldest[0])
      // Rows that run by it have what they need.
      oldest[1].dispose()
    }
    return compiled
  }

  return {
    async open(constraint) {
      const compiled = await compile(constraint)
      const matcher = await loadXgrammar().GrammarMatcher.createGrammarMatcher(compiled)
      let allowed: Allowed = new Int32Array(0)
      return {
        async prepare() {
          allowed = await matcher.getNextTokenBitmask()
        },
        get allowed() {
          return allowed
        },
        accept(id) {
          if (!matcher.acceptToken(id)) throw new Error('sidepath bug: a token was drawn that the grammar forbids')
        },
        close: () => matcher.dispose(),
      }
    },
  }
}

function compileWith(compiler: GrammarCompiler, constraint: Constraint): Promise<CompiledGrammar> {
  if (constraint.kind !== 'call') {
    const schema = constraint.kind === 'schema' ? constraint.schema : '{"type":"object"}'
    return compiler.compileJSONSchema(schema, true, undefined, undefined, constraint.kind === 'schema', MAX_WHITESPACE)
  }
  const elements = constraint.functions.map(({ name, schema }) => ({
    type: 'tag',
    begin: `<tool_call>\n{"name": "${name}", "arguments": `,
    content: { type: 'json_schema', json_schema: JSON.parse(schema) },
    end: '}\n</tool_call>',
  }))
  const format = elements.length === 1 ? elements[0] : { type: 'or', elements }
  return compiler.compileStructuralTag(JSON.stringify({ type: 'structural_tag', format }))
}

async function createCompiler(vocabulary: Vocabulary | undefined): Promise<GrammarCompiler> {
  if (vocabulary === undefined) {
    const message = 'the tokenizer of this base is none whose answers can be kept to a form'
    throw new BackendError('request_invalid', message, 'response_format')
  }
  const { tokens, spelling, endIds, size } = vocabulary
  const { GrammarCompiler, TokenizerInfo } = loadXgrammar()
  const info = await TokenizerInfo.createTokenizerInfo([...tokens], spelling, false, size, [...endIds])
  // Its own cache has no bound.
  return GrammarCompiler.createGrammarCompiler(info, false)
}
