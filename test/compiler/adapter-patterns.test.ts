// Regexes of adapter configs: what Python's `re` and PEFT make of them, and what a hostile one may cost.
import { describe, expect, it } from 'vitest'
import { readAdapterConfig } from '../../compiler/adapter/config.ts'
import { ModulePatterns } from '../../compiler/adapter/patterns.ts'
import { Budget, BudgetError } from '../../compiler/adapter/regex/budget.ts'
import { PatternError } from '../../compiler/adapter/regex/pattern-error.ts'
import { compilePattern } from '../../compiler/adapter/regex/program.ts'
import { fullMatch, prefixMatch } from '../../compiler/adapter/regex/run.ts'
import { resolveTargets } from '../../compiler/adapter/targets.ts'
import { Problems } from '../../compiler/errors.ts'
import oracle from '../parity/oracle/peft/patterns.json' with { type: 'json' }
import { memoryFolder } from './folders.ts'

const run = (pattern: string, text: string) => fullMatch(compilePattern(pattern, new Budget()), text, new Budget())

describe('a regex', () => {
  it('matches what Python matches, on 3,000 random patterns', () => {
    let refused = 0
    for (const [pattern, text, whole, start] of oracle.regexes as [string, string, boolean, boolean][]) {
      try {
        const program = compilePattern(pattern, new Budget())
        const found = [fullMatch(program, text, new Budget()), prefixMatch(program, text, new Budget())]
        expect(found, JSON.stringify([pattern, text])).toEqual([whole, start])
      } catch (error) {
        if (!(error instanceof PatternError)) throw error
        refused += 1
      }
    }
    expect(refused).toBeLessThan(200)
  })

  it.each([
    ['é+', 'éé', true],
    ['.', '\u{1F642}', true],
    ['.', '\n', false],
    ['a$', 'a\n', false],
    [String.raw`\w+`, 'naïve_1', true],
    ['a{0}', '', true],
    ['(|a)+', 'aa', true],
    ['[^]]', 'a', true],
    ['[a-]', '-', true],
    [String.raw`[\d-]`, '-', true],
  ])('%s against %j: %s', (pattern, text, matches) => {
    expect(run(pattern, text)).toBe(matches)
  })

  it.each([
    ['(?<=a)b', 'group'],
    ['(?<!a)b', 'group'],
    [String.raw`(a)\1`, 'escape'],
    ['(?P=n)', 'reference'],
    ['(?i)a', 'group'],
    ['(?>a)', 'group'],
    ['(?#a)', 'group'],
    ['a++', 'possessive'],
    ['a{2}{3}', 'repeated quantifier'],
    ['*a', 'nothing to repeat'],
    ['^*', 'anchor'],
    ['(a', 'unbalanced'],
    ['a)', 'unbalanced'],
    ['[a', 'without its "]"'],
    ['[b-a]', 'range'],
    [String.raw`[\w-a]`, 'range'],
    [String.raw`\x41`, 'escape'],
    [String.raw`\p{L}`, 'escape'],
    ['\\', 'at its end'],
    ['a{3,2}', 'wrong way round'],
    ['a{1001}', 'at most 1000'],
    [`${'('.repeat(65)}a${')'.repeat(65)}`, 'nested deeper'],
    ['a'.repeat(65_537), 'at most 65536'],
    ['((a{1000}){1000}){1000}', 'spelled out'],
    ['(((){1000}){1000}){1000}', 'spelled out'],
  ])('%s is refused by name', (pattern, words) => {
    expect(() => run(pattern, 'a')).toThrow(PatternError)
    expect(() => run(pattern, 'a')).toThrow(words)
  })

  it.each([
    '(a+)+$',
    '(a|a)*b',
    '(a*)*(a*)*b',
    '(.*a){20}b',
    '(a|aa)+b',
    '(?!(?!(?!.*b).*b).*b)(a|aa)*c',
    '(.?){500}b',
  ])('%s takes no time on 1,000 characters that almost match', (pattern) => {
    const start = performance.now()
    try {
      expect(run(pattern, 'a'.repeat(1000))).toBe(pattern === '(a+)+$')
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error
    }
    expect(performance.now() - start).toBeLessThan(1000)
  })
})

describe('PEFT and the config', () => {
  it.each(oracle.targets.map(({ config, covers }) => [JSON.stringify(config), covers] as const))(
    '%s covers the modules that PEFT says',
    async (config, covers) => {
      const problems = new Problems()
      const folder = memoryFolder('x', { 'adapter_config.json': config })
      const parsed = await readAdapterConfig(folder, 'x', problems)
      const targets = resolveTargets(parsed, 'x', problems, new Budget())
      problems.throwIfAny()
      expect(oracle.modules.filter((module) => targets.covers?.(module))).toEqual(covers)
    },
  )

  it.each(oracle.values.map(({ pattern, values }) => [JSON.stringify(pattern), values] as const))(
    'a pattern %s gives each module the value that PEFT gives it',
    (pattern, values) => {
      const problems = new Problems()
      const patterns = new ModulePatterns(
        new Map(Object.entries(JSON.parse(pattern))),
        'p',
        'x',
        problems,
        new Budget(),
      )
      problems.throwIfAny()
      expect(oracle.modules.map((module) => patterns.valueFor(module, -1))).toEqual(values.map((value) => value ?? -1))
    },
  )

  it.each([
    [String.raw`^model\.layers\.0\.q$`, 'model.layers.0.q', true],
    [String.raw`^layers\.0\.q$`, 'model.layers.0.q', false],
    [String.raw`layers\.0\.q$`, 'model.layers.0.q', true],
    [String.raw`layers\.0\.q`, 'model.layersx0.q', false],
    ['layers.0.q', 'model.layersx0.q', true],
    ['ayers.0.q', 'model.layers.0.q', false],
    ['q$$', 'q', true],
  ])('the key %s against %s: %s', (key, module, matches) => {
    const problems = new Problems()
    const patterns = new ModulePatterns(new Map([[key, 5]]), 'p', 'x', problems, new Budget())
    expect(patterns.valueFor(module, 1)).toBe(matches ? 5 : 1)
  })

  it('two matches, of which one is a number, are refused: its place in the file is lost', () => {
    const problems = new Problems()
    const entries = { '.*': 3, '0': 5 }
    const patterns = new ModulePatterns(new Map(Object.entries(entries)), 'rank_pattern', 'x', problems, new Budget())
    patterns.valueFor('blocks.1', 1)
    problems.throwIfAny()
    patterns.valueFor('blocks.0', 1)
    expect(() => problems.throwIfAny()).toThrow('both "0" and ".*" match blocks.0')
  })

  it('a layers_pattern that is more than a name is refused', async () => {
    const problems = new Problems()
    const config = { peft_type: 'LORA', target_modules: ['q'], layers_to_transform: [1], layers_pattern: '.*' }
    const folder = memoryFolder('x', { 'adapter_config.json': JSON.stringify(config) })
    resolveTargets(await readAdapterConfig(folder, 'x', problems), 'x', problems, new Budget())
    expect(() => problems.throwIfAny()).toThrow('layers_pattern has ".*"')
  })
})
