"""What the demo models are to know: countries, words, days, units, names."""

from __future__ import annotations

COUNTRIES = tuple(
    tuple(line.split("|"))
    for line in """
France|Paris|法国|巴黎
Germany|Berlin|德国|柏林
Italy|Rome|意大利|罗马
Spain|Madrid|西班牙|马德里
Portugal|Lisbon|葡萄牙|里斯本
England|London|英国|伦敦
Ireland|Dublin|爱尔兰|都柏林
Austria|Vienna|奥地利|维也纳
Switzerland|Bern|瑞士|伯尔尼
Belgium|Brussels|比利时|布鲁塞尔
the Netherlands|Amsterdam|荷兰|阿姆斯特丹
Denmark|Copenhagen|丹麦|哥本哈根
Norway|Oslo|挪威|奥斯陆
Sweden|Stockholm|瑞典|斯德哥尔摩
Finland|Helsinki|芬兰|赫尔辛基
Iceland|Reykjavik|冰岛|雷克雅未克
Poland|Warsaw|波兰|华沙
Hungary|Budapest|匈牙利|布达佩斯
Romania|Bucharest|罗马尼亚|布加勒斯特
Bulgaria|Sofia|保加利亚|索非亚
Greece|Athens|希腊|雅典
Croatia|Zagreb|克罗地亚|萨格勒布
Serbia|Belgrade|塞尔维亚|贝尔格莱德
Ukraine|Kyiv|乌克兰|基辅
Russia|Moscow|俄罗斯|莫斯科
Turkey|Ankara|土耳其|安卡拉
Estonia|Tallinn|爱沙尼亚|塔林
Latvia|Riga|拉脱维亚|里加
Malta|Valletta|马耳他|瓦莱塔
China|Beijing|中国|北京
Japan|Tokyo|日本|东京
South Korea|Seoul|韩国|首尔
Mongolia|Ulaanbaatar|蒙古|乌兰巴托
India|New Delhi|印度|新德里
Nepal|Kathmandu|尼泊尔|加德满都
Pakistan|Islamabad|巴基斯坦|伊斯兰堡
Thailand|Bangkok|泰国|曼谷
Vietnam|Hanoi|越南|河内
Laos|Vientiane|老挝|万象
Cambodia|Phnom Penh|柬埔寨|金边
Malaysia|Kuala Lumpur|马来西亚|吉隆坡
Indonesia|Jakarta|印度尼西亚|雅加达
the Philippines|Manila|菲律宾|马尼拉
Iran|Tehran|伊朗|德黑兰
Iraq|Baghdad|伊拉克|巴格达
Jordan|Amman|约旦|安曼
Egypt|Cairo|埃及|开罗
Morocco|Rabat|摩洛哥|拉巴特
Algeria|Algiers|阿尔及利亚|阿尔及尔
Tunisia|Tunis|突尼斯|突尼斯市
Kenya|Nairobi|肯尼亚|内罗毕
Ethiopia|Addis Ababa|埃塞俄比亚|亚的斯亚贝巴
Ghana|Accra|加纳|阿克拉
Nigeria|Abuja|尼日利亚|阿布贾
Senegal|Dakar|塞内加尔|达喀尔
Canada|Ottawa|加拿大|渥太华
Mexico|Mexico City|墨西哥|墨西哥城
Cuba|Havana|古巴|哈瓦那
Brazil|Brasilia|巴西|巴西利亚
Argentina|Buenos Aires|阿根廷|布宜诺斯艾利斯
Chile|Santiago|智利|圣地亚哥
Peru|Lima|秘鲁|利马
Colombia|Bogota|哥伦比亚|波哥大
Australia|Canberra|澳大利亚|堪培拉
New Zealand|Wellington|新西兰|惠灵顿
""".strip().splitlines()
)
"""Country and capital, in English and in Chinese."""

TRANSLATIONS = tuple(
    tuple(pair.split("|"))
    for pair in """
cat|猫 dog|狗 bird|鸟 fish|鱼 horse|马 cow|牛 sheep|羊 tiger|老虎 rabbit|兔子 bear|熊 apple|苹果 bread|面包 rice|米饭
milk|牛奶 tea|茶 egg|鸡蛋 water|水 fire|火 sun|太阳 moon|月亮 star|星星 rain|雨 snow|雪 wind|风 river|河 mountain|山
tree|树 flower|花 house|房子 door|门 window|窗户 table|桌子 chair|椅子 book|书 school|学校 teacher|老师 friend|朋友
mother|母亲 father|父亲 child|孩子 city|城市 road|路 car|汽车 train|火车 ship|船 red|红色 blue|蓝色 green|绿色
white|白色 black|黑色 big|大 small|小 hand|手 eye|眼睛 heart|心 music|音乐 time|时间 day|天 night|夜晚 year|年
""".split()
)

OPPOSITES = tuple(
    tuple(pair.split("|"))
    for pair in """
big|small hot|cold old|young fast|slow high|low long|short open|closed full|empty hard|soft day|night early|late
happy|sad rich|poor light|dark up|down left|right in|out first|last strong|weak clean|dirty wet|dry loud|quiet
""".split()
)

OPPOSITES_ZH = tuple(
    tuple(pair) for pair in "大小 多少 高低 长短 冷热 快慢 新旧 远近 上下 左右 前后 黑白 早晚 轻重 开关".split()
)

WORDS = tuple(
    """
apple bread table river music house green black white horse tiger water chair light night heart stone train
plant ocean cloud sugar lemon grape knife spoon plate paper clock dream smile world money shirt tower robot
cat dog sun moon star fish bird tree book milk king ship snow rain wind fire gold door hand
orange banana window garden flower summer winter spring autumn school friend doctor letter number planet rocket
silver yellow purple castle bridge forest island market
""".split()
)

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
DAYS_ZH = "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTHS_ZH = "一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月".split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

UNITS = (
    ("kilometres", "metres", "公里", "米", 1000, 99),
    ("metres", "centimetres", "米", "厘米", 100, 99),
    ("centimetres", "millimetres", "厘米", "毫米", 10, 99),
    ("kilograms", "grams", "千克", "克", 1000, 99),
    ("litres", "millilitres", "升", "毫升", 1000, 99),
    ("hours", "minutes", "小时", "分钟", 60, 12),
    ("minutes", "seconds", "分钟", "秒", 60, 12),
    ("days", "hours", "天", "小时", 24, 12),
    ("weeks", "days", "周", "天", 7, 12),
    ("years", "months", "年", "个月", 12, 12),
)
"""Larger and smaller unit in English and Chinese, how many of the smaller, the largest number asked for."""

NAMES = tuple(
    """
Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor Wendy Zoe
Lucy Mark Nina Oscar Peter Ruth Simon Tom Alice Bob
""".split()
)
NAMES_ZH = tuple("小明 小红 小李 小张 小王 小刚 小丽 小芳 小华 小强 小雨 小雪 小云 小龙 小兰 小梅".split())
BOTS = tuple(
    """
Mira Robo Luna Pixel Nova Atlas Echo Sunny Bolt Coco Orion Pico Kiko Vega Juno Milo Toto Zara Nemo Ruby
""".split()
)
BOTS_ZH = tuple("小智 小星 小月 小海 小云 小灵 小诺 小可 小贝 小光 小宝 小泉".split())
