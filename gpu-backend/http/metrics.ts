// Prometheus metrics under vLLM's names, so that routers and dashboards made for it (the Kubernetes inference gateway
// among them) work on this backend.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Stats } from '../engine/request.ts'

export interface MetricsSource {
  readonly alive: boolean
  readonly stats: Stats
  /** Digest of the base. */
  readonly base: string
}

export interface Recording {
  /** The prompt has run. */
  ran(): void
  /** Tokens that came now, of one of the request's rows. */
  tokens(row: number, count: number): void
  end(outcome: string): void
}

export interface Metrics {
  readonly contentType: string
  /** In Prometheus' text format. */
  text(): Promise<string>
  /** A generation that starts now. */
  record(promptTokens: number): Recording
}

/** As vLLM's, from a millisecond to what a busy CPU takes. */
const FIRST_TOKEN_S = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
const BETWEEN_TOKENS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]
const WHOLE_S = [0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240]

export function createMetrics(source: MetricsSource, now: () => number): Metrics {
  const registry = new Registry()
  registry.setDefaultLabels({ model_name: source.base })
  const registers = [registry]
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read())
      },
    })
  }
  gauge('vllm:num_requests_running', 'Rows that run.', () => source.stats.rows)
  gauge('vllm:num_requests_waiting', 'Requests that wait for a row.', () => source.stats.queued)
  gauge(
    'vllm:kv_cache_usage_perc',
    'Share of the KV cache that rows may come to fill; 1 is all.',
    () => source.stats.kvUsed,
  )
  gauge('vllm:gpu_cache_usage_perc', 'The same, under its older name.', () => source.stats.kvUsed)
  gauge('sidepath_engine_up', 'Whether there is an engine that could serve.', () => Number(source.alive))
  gauge('sidepath_adapter_slots_free', 'Slots that could take an adapter now.', () => source.stats.free)
  gauge('sidepath_prefix_cache_bytes', 'Kept of prompts that have run.', () => source.stats.prefixes?.bytes ?? 0)
  // Counted where the prompts run, so that here a counter is set and not moved.
  const total = (name: string, help: string, read: () => number): void => {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset()
        this.inc(read())
      },
    })
  }
  total(
    'vllm:prefix_cache_queries_total',
    'Tokens of prompts that were looked for among those that have run.',
    () => source.stats.prefixes?.queriedTokens ?? 0,
  )
  total(
    'vllm:prefix_cache_hits_total',
    'Those of them that were found, and did not run again.',
    () => source.stats.prefixes?.hitTokens ?? 0,
  )
  gauge('sidepath_adapter_bytes', 'Of adapters in host memory.', () => source.stats.adapterBytes ?? 0)
  const loras = new Gauge({
    name: 'vllm:lora_requests_info',
    help: 'Digests of the adapters of running and of waiting requests; the value is the time in seconds.',
    labelNames: ['running_lora_adapters', 'waiting_lora_adapters', 'max_lora'],
    registers,
    collect() {
      const { running, waiting, slots } = source.stats
      // One series, that of now.
      this.reset()
      const labels = { running_lora_adapters: running.join(','), waiting_lora_adapters: waiting.join(',') }
      this.set({ ...labels, max_lora: String(slots) }, now() / 1000)
    },
  })
  void loras
  const promptTokens = new Counter({ name: 'vllm:prompt_tokens_total', help: 'Tokens of prompts.', registers })
  const generated = new Counter({ name: 'vllm:generation_tokens_total', help: 'Tokens that were produced.', registers })
  const finished = new Counter({
    name: 'vllm:request_success_total',
    help: 'Generations that came to an end of their own.',
    labelNames: ['finished_reason'],
    registers,
  })
  const failed = new Counter({
    name: 'sidepath_request_failed_total',
    help: 'Generations that did not.',
    labelNames: ['code'],
    registers,
  })
  const histogram = (name: string, help: string, buckets: number[]) => new Histogram({ name, help, buckets, registers })
  const firstToken = histogram('vllm:time_to_first_token_seconds', 'Until the first token.', FIRST_TOKEN_S)
  const between = histogram('vllm:inter_token_latency_seconds', 'Between two tokens of a row.', BETWEEN_TOKENS_S)
  const whole = histogram('vllm:e2e_request_latency_seconds', 'Until the end.', WHOLE_S)

  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    record(tokensOfPrompt) {
      const startMs = now()
      const lastMs = new Map<number, number>()
      const ran = (): void => promptTokens.inc(tokensOfPrompt)
      return {
        ran,
        tokens(row, count) {
          if (count === 0) return
          const nowMs = now()
          const before = lastMs.get(row)
          if (lastMs.size === 0) {
            ran()
            firstToken.observe((nowMs - startMs) / 1000)
          }
          if (before !== undefined) between.observe((nowMs - before) / 1000)
          lastMs.set(row, nowMs)
          generated.inc(count)
        },
        end(outcome) {
          if (outcome === 'stop' || outcome === 'length') finished.inc({ finished_reason: outcome })
          else failed.inc({ code: outcome })
          whole.observe((now() - startMs) / 1000)
        },
      }
    },
  }
}
