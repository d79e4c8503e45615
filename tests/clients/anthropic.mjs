// What Anthropic's Node client makes of the endpoint at process.argv[2], as one JSON object.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const ask = { model: "base", max_tokens: 300, temperature: 0 };
const messages = [{ role: "user", content: "What is the capital of Italy?" }];
const weather = {
  name: "get_weather",
  description: "Weather of a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

async function whole() {
  const done = await client.messages.create({ ...ask, messages, thinking: { type: "adaptive" } });
  const counted = await client.messages.countTokens({ model: "base", messages, thinking: { type: "adaptive" } });
  const same = counted.input_tokens === done.usage.input_tokens;
  return { kinds: done.content.map((block) => block.type), text: done.content.at(-1).text, end: done.stop_reason, same };
}

async function streamed() {
  let pieces = 0;
  const stream = client.messages.stream({ ...ask, messages }).on("text", () => (pieces += 1));
  return { text: await stream.finalText(), pieces };
}

async function tools() {
  const asked = [{ role: "user", content: "What is the weather in Rome?" }];
  const first = await client.messages.create({ ...ask, messages: asked, tools: [weather] });
  const call = first.content.at(-1);
  const result = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "sunny" }] };
  const answered = [...asked, { role: "assistant", content: first.content }, result];
  const second = await client.messages.create({ ...ask, messages: answered, tools: [weather] });
  return { reason: first.stop_reason, name: call.name, input: call.input, end: second.stop_reason };
}

async function models() {
  const names = [];
  for await (const each of client.models.list()) names.push(each.id);
  return names;
}

async function refused() {
  try {
    await client.messages.create({ ...ask, model: "claude-sonnet", messages });
  } catch (error) {
    return { name: error.constructor.name, status: error.status, type: error.error.error.type };
  }
}

const found = {};
for (const each of [whole, streamed, tools, models, refused]) found[each.name] = await each();
console.log(JSON.stringify(found));
