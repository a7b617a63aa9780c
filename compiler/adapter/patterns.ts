// rank_pattern and alpha_pattern. PEFT takes each key as a regex, `^(.*\.)?(KEY)$` on the module's path; the first that
// matches, in the order of the file, gives the value.
import { type Problems, quote } from '../errors.ts'
import type { Budget } from './regex/budget.ts'
import { PatternError } from './regex/pattern-error.ts'
import { compilePattern, type Program } from './regex/program.ts'
import { prefixMatch } from './regex/run.ts'

/** Word characters, dots and escaped dots, anchored or not: most keys, matched without a program. */
const LITERAL = /^\^?(?:[\w.]|\\\.)+\$?$/
/** JavaScript moves such keys to the front of an object, so their place in the file is lost. */
const INDEX = /^(0|[1-9]\d*)$/

interface Rule {
  readonly key: string
  readonly value: number
  readonly match: Program | Literal
}

interface Literal {
  /** One entry a character; `undefined` for a dot, which stands for any. */
  readonly chars: readonly (string | undefined)[]
  /** Anchored at the start, so that no part of the path comes before it. */
  readonly isWhole: boolean
}

export class ModulePatterns {
  readonly #rules: readonly Rule[]
  readonly #exact: ReadonlyMap<string, number>
  readonly #hasIndex: boolean
  readonly #field: string
  readonly #about: string
  readonly #problems: Problems
  readonly #budget: Budget

  /** Reports keys that cannot be run. */
  constructor(patterns: ReadonlyMap<string, number>, field: string, about: string, problems: Problems, budget: Budget) {
    this.#rules = [...patterns].flatMap(([key, value]): Rule[] => {
      if (LITERAL.test(key)) return [{ key, value, match: parseLiteral(key) }]
      const program = tryCompile(`(.*\\.)?(${key})$`, `${field} has the key ${quote(key)}`, about, problems, budget)
      return program === undefined ? [] : [{ key, value, match: program }]
    })
    this.#exact = patterns
    this.#hasIndex = [...patterns.keys()].some((key) => INDEX.test(key))
    this.#field = field
    this.#about = about
    this.#problems = problems
    this.#budget = budget
  }

  /** Throws `BudgetError`. */
  valueFor(module: string, fallback: number): number {
    const key = this.keyFor(module)
    return key === undefined ? fallback : (this.#exact.get(key) ?? fallback)
  }

  /** The key that the module's value is under. Throws `BudgetError`. */
  keyFor(module: string): string | undefined {
    const first = this.#rules.find((rule) => this.#matches(rule, module))
    // PEFT looks the path itself up where no pattern matched it.
    if (first === undefined) return this.#exact.has(module) ? module : undefined
    if (this.#hasIndex) this.#checkOrder(first, module)
    return first.key
  }

  #checkOrder(first: Rule, module: string): void {
    const other = this.#rules.find((rule) => rule.value !== first.value && this.#matches(rule, module))
    if (other === undefined || !(INDEX.test(first.key) || INDEX.test(other.key))) return
    this.#problems.add(
      'adapter-pattern',
      `${this.#about}: in ${this.#field} both ${quote(first.key)} and ${quote(other.key)} match ${module}, and the ` +
        'order of a key that is a number cannot be told; write the full path of the module',
    )
  }

  #matches({ match }: Rule, module: string): boolean {
    this.#budget.spend(1)
    return 'chars' in match ? matchesSuffix(match, module) : prefixMatch(match, module, this.#budget)
  }
}

/** `undefined`, and a problem, where the pattern is outside the subset. */
export function tryCompile(
  source: string,
  what: string,
  about: string,
  problems: Problems,
  budget: Budget,
): Program | undefined {
  try {
    return compilePattern(source, budget)
  } catch (error) {
    if (!(error instanceof PatternError)) throw error
    problems.add(
      'adapter-pattern',
      `${about}: ${what}, a regex that is not run here: ${error.message}; write the names out`,
    )
    return undefined
  }
}

function parseLiteral(key: string): Literal {
  const text = key.replace(/^\^/, '').replace(/\$$/, '')
  const chars = text.match(/\\\.|./g) ?? []
  return {
    chars: chars.map((char) => (char === '.' ? undefined : char === '\\.' ? '.' : char)),
    isWhole: key.startsWith('^'),
  }
}

/** `^(.*\.)?(KEY)$` for a literal KEY. */
function matchesSuffix({ chars, isWhole }: Literal, module: string): boolean {
  const start = module.length - chars.length
  if (start < 0 || (start > 0 && (isWhole || module[start - 1] !== '.'))) return false
  // From the end, where paths differ.
  for (let i = chars.length - 1; i >= 0; i -= 1) {
    const char = chars[i]
    if (char !== undefined && char !== module[start + i]) return false
  }
  return true
}
